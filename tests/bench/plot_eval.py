"""Draws reports of `malmend eval`: ES, GS, LS and agreement over the number of edits.

    malmend eval ... --report a.json
    plot_eval.py a.json b.json --out curves.svg [--label "MALMEN, joint"]... [--teacher-forced]

A solid line is retention, all facts edited so far; with --right-after a thin dashed one is each
batch's own facts right after it, which is all there is of a report made with --reset. A label
is taken from the report unless one is given for each. Needs matplotlib."""
import argparse
import json
import pathlib
import sys

try:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("plot_eval.py needs matplotlib: pip install matplotlib")

# Told apart with any colour vision (Okabe and Ito), and in grey by their markers.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
           "#999999"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
PANELS = [("es", "ES: the facts themselves"), ("gs", "GS: their rephrases"),
          ("ls", "LS: unrelated prompts, right"), ("agreement", "Agreement: as the base model answers")]


def share(measures, key, kind):
    """In percent, None where it was not measured."""
    value = measures.get(key) if key == "agreement" else measures[kind].get(key)
    return None if value is None else 100 * value


def curve(points, key, kind):
    """Edits and percent of those points that have this measure."""
    pairs = [(n, share(measures, key, kind)) for n, measures in points]
    return [n for n, y in pairs if y is not None], [y for _, y in pairs if y is not None]


def streams(report):
    """(edits so far, measures) of retention, which begins before the first edit, and of each
    batch right after it."""
    edits, after = 0, []
    for batch in report["batches"]:
        edits += batch["facts"]
        after.append((edits, batch["measures"]))
    retention = [(r["facts"], r["measures"]) for r in report.get("retention", [])]
    return [(0, report["before"]), *retention] if retention else [], after


def label_of(report):
    name = {"malmen": "MALMEN", "mend": "MEND", "ultraedit": "UltraEdit"}
    method = report["editor"]["method"]
    words = [name.get(method, method), "each batch alone" if report["reset"] else report["update"]]
    if "preserve" in report:
        words.append("preserving")
    return ", ".join(words)


def draw(reports, labels, kind, right_after):
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.2), sharex=True, sharey=True,
                                layout="constrained")
    for ax, (key, title) in zip(axes.flat, PANELS, strict=True):
        for i, (report, label) in enumerate(zip(reports, labels, strict=True)):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            retention, after = streams(report)
            ax.plot(*curve(retention, key, kind), color=colour, marker=marker, markersize=4,
                    linewidth=1.6, label=label)
            if right_after or not retention:
                ax.plot(*curve(after, key, kind), color=colour, marker=marker, markersize=3,
                        linewidth=1, linestyle="--")
        ax.set_title(title, fontsize=11, loc="left")
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_ylim(-3, 103)
    for ax in axes[1]:
        ax.set_xlabel("facts edited")
    for ax in axes[:, 0]:
        ax.set_ylabel("%")
    words = "teacher-forced" if kind == "teacher_forced" else "decoded"
    models = ", ".join(dict.fromkeys(report["model"] for report in reports))
    sizes = ", ".join(dict.fromkeys(str(report["n_edits"]) for report in reports))
    note = "; dashed: each batch right after it" if right_after else ""
    figure.suptitle(f"{models}: batches of {sizes}, ES, GS and LS {words}{note}", fontsize=12)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
                  frameon=False)
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", metavar="REPORT")
    parser.add_argument("--out", required=True, help="picture, .png or .svg")
    parser.add_argument("--label", action="append", help="of a report, once for each")
    parser.add_argument("--teacher-forced", action="store_true")
    parser.add_argument("--right-after", action="store_true",
                        help="also each batch's own facts right after it")
    args = parser.parse_args()
    if pathlib.Path(args.out).suffix not in (".png", ".svg"):
        parser.error("--out must end in .png or .svg")
    if args.label and len(args.label) != len(args.reports):
        parser.error(f"{len(args.label)} labels for {len(args.reports)} reports")
    reports = []
    for path in args.reports:
        try:
            reports.append(json.loads(pathlib.Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            sys.exit(f"{path}: {error}")
    figure = draw(reports, args.label or [label_of(report) for report in reports],
                  "teacher_forced" if args.teacher_forced else "decoded", args.right_after)
    figure.savefig(args.out, dpi=130)


if __name__ == "__main__":
    main()
