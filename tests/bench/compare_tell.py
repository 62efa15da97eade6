#!/usr/bin/env python3
"""What compare.py measured, as a Markdown table and as plots: compare_tell.py RESULT.json writes
RESULT.md, .svg and .png. Needs matplotlib."""
import json
import pathlib
import sys

import plot_eval


def cell(point, kind):
    """Facts, rephrases and unrelated prompts in percent; of a stream, all of its facts at its end."""
    if point is None:
        return "-"
    if "error" in point:
        return "failed"
    measures = point["retention"][-1]["measures"] if point["stream"] else point["after"]
    shares = [plot_eval.share(measures, key, kind) for key in ("es", "gs", "agreement")]
    return " / ".join("-" if x is None else f"{x:.1f}" for x in shares)


def two(x):
    """Two digits that count."""
    return f"{float(f'{x:.2g}'):g}"


def table(result, kind):
    points = {(p["label"], p["n"], p["stream"]): p for p in result["points"]}
    labels = list(dict.fromkeys(label for label, _, _ in points))
    sizes = sorted({n for _, n, stream in points if not stream})
    streams = sorted({(p["batches"], n) for (_, n, stream), p in points.items() if stream})
    of = result["size"] if result["size"] in sizes else sizes[-1]
    lines = [["method", *(f"{n:,}" for n in sizes), *(f"{b} x {n}" for b, n in streams),
              f"time per fact of {of:,}", "peak memory"]]
    lines.append(["---"] * len(lines[0]))
    first = None
    for label in labels:
        spent = points.get((label, of, False), {}).get("processor_seconds_per_fact")
        first = first or spent
        time = f"{two(1000 * spent)} ms ({two(spent / first)})" if spent else "-"
        memory = max(p.get("peak_memory", 0) for p in points.values() if p["label"] == label)
        lines.append([label, *(cell(points.get((label, n, False)), kind) for n in sizes),
                      *(cell(points.get((label, n, True)), kind) for _, n in streams),
                      time, f"{memory / 1e6:.0f} MB"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(result):
    plt = plot_eval.plt
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.6), sharey=True, layout="constrained")
    labels = list(dict.fromkeys(p["label"] for p in result["points"]))
    for i, label in enumerate(labels):
        own = [p for p in result["points"] if p["label"] == label and "after" in p]
        curves = [[(p["n"], p["after"]) for p in own if not p["stream"]],
                  [(r["facts"], r["measures"]) for p in own if p["stream"] for r in p["retention"]]]
        for line, points in zip(axes, curves, strict=True):
            for ax, key in zip(line, ("es", "gs", "agreement"), strict=True):
                ax.plot(*plot_eval.curve(points, key, "decoded"), label=label, linewidth=1.6,
                        markersize=4, color=plot_eval.COLOURS[i], marker=plot_eval.MARKERS[i])
    titles = ["facts (ES)", "rephrases (GS)", "unrelated, as before"]
    for line, words in zip(axes, ("one batch", f"batches of {result['size']}"), strict=True):
        for ax, title in zip(line, titles, strict=True):
            ax.set_title(f"{title}: {words}", fontsize=10, loc="left")
            ax.grid(color="#dddddd", linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_ylim(-3, 103)
        line[0].set_ylabel("%, decoded")
    for ax in axes[0]:
        ax.set_xscale("log", base=2)
        ticks = sorted({p["n"] for p in result["points"] if not p["stream"]})
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    for ax in axes[1]:
        ax.set_xlabel("facts edited")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
                  frameon=False)
    return figure


def tell(result, out):
    kinds = {"decoded": "Decoded", "teacher_forced": "Teacher-forced"}
    out.with_suffix(".md").write_text("\n".join(
        f"{words}, facts / rephrases / unrelated as before, in %:\n\n{table(result, kind)}"
        for kind, words in kinds.items()), encoding="utf-8")
    figure = draw(result)
    for suffix in (".svg", ".png"):
        figure.savefig(out.with_suffix(suffix), dpi=90)


if __name__ == "__main__":
    file = pathlib.Path(sys.argv[1])
    tell(json.loads(file.read_text(encoding="utf-8")), file)
