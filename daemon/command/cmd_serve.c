/* cmd_serve.c - `malmend serve`: the daemon's options. */
#include <math.h>
#include <stdio.h>

#include "core/backend.h"
#include "core/error.h"
#include "core/text.h"
#include "daemon/command/commands.h"
#include "daemon/command/config_check.h"
#include "daemon/command/options.h"
#include "daemon/http/listen.h"
#include "daemon/serve.h"
#include "daemon/command/workbench.h"

struct values {
    char *model, *editor, *data, *db, *listen, *tokens, *device, *update;
    int64_t max_queue, max_batch_facts, batch_window_ms, max_body, max_bulk;
    char *read_stream;
    int64_t keep_versions;
    int64_t max_connections, max_connections_per_address, max_event_streams;
    int64_t keyframe_every, retain_bytes, min_free_disk;
    char *preserve;
    int64_t repair_rounds, verify_limit, consolidate_after, joint_memory;
    double preserve_weight, repair_tau;
    bool no_scrub;
    double request_timeout, retain_age, save_every;
    char *probes, *suites;
    struct mal_gate_limits gate;
    bool check_config, json;
};

#define AT(field) offsetof(struct values, field)

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, AT(model), "DIR", NULL,
     "The base model: config.json, safetensors, tokenizer files.", .required = true},
    {"editor", MAL_OPTION_TEXT, AT(editor), "FILE", NULL,
     "The editor, as 'malmend init-editor' or 'malmend train' made it. When not given: "
     "DB.editor.safetensors, beside the database; where that is not there yet, one is made "
     "and kept as that file."},
    {"data", MAL_OPTION_TEXT, AT(data), "FILE", NULL,
     "Facts to make that editor on, at the start; without it the first batch that is "
     "edited serves."},
    {"db", MAL_OPTION_TEXT, AT(db), "FILE", NULL,
     "The database of jobs, facts and versions; made when it is not there.",
     .required = true},
    {"listen", MAL_OPTION_TEXT, AT(listen), "ADDR", "127.0.0.1:8780",
     "Where to accept: ADDRESS:PORT (port 0: any free one), or unix:/path. Without --tokens "
     "ADDRESS must be a loopback address, and on a Unix socket only the daemon's own user "
     "and root are served.", .check = mal_listen_check_form},
    {"tokens", MAL_OPTION_TEXT, AT(tokens), "FILE", NULL,
     "Who may do what: lines NAME ROLE SHA256, as 'malmend token' makes them; roles read, "
     "infer, edit, admin. Then every call needs a token. Read again at SIGHUP."},
    {"device", MAL_OPTION_TEXT, AT(device), "NAME", "auto",
     "Where to compute: auto, cpu, cpu:bf16 or cuda:N.", .check = mal_backend_check_name},
    {"update", MAL_OPTION_CHOICE, AT(update), "joint|sequential", NULL,
     "joint: all live facts are held in one system, from which they can be taken back; "
     "sequential: each batch is added to the current weights. When not given: joint, for "
     "UltraEdit, MEND and what fine-tunes sequential."},
    {"preserve", MAL_OPTION_TEXT, AT(preserve), "FILE", NULL, MAL_HELP_PRESERVE},
    {"preserve-weight", MAL_OPTION_REAL, AT(preserve_weight), "W", NULL,
     MAL_HELP_PRESERVE_WEIGHT, .min = 0, .max = INFINITY},
    {"repair-rounds", MAL_OPTION_INT, AT(repair_rounds), "N", "4", MAL_HELP_REPAIR_ROUNDS,
     .min = 0, .max = 1000},
    {"repair-tau", MAL_OPTION_REAL, AT(repair_tau), "P", "0.9", MAL_HELP_REPAIR_TAU,
     .min = 0, .max = 1},
    {"verify-limit", MAL_OPTION_INT, AT(verify_limit), "FACTS", "4096",
     "Live facts that a change looks at, and repairs, beside its own; of more, another "
     "sample each time.",
     .min = 0, .max = 1e9},
    {"no-scrub", MAL_OPTION_FLAG, AT(no_scrub), NULL, NULL,
     "Do not look for live facts that are wrong, and repair them, while there is nothing "
     "else to do."},
    {"consolidate-after", MAL_OPTION_INT, AT(consolidate_after), "VERSIONS", "64",
     "Solve all live facts anew from the base when so many versions have passed since that "
     "was done, and there is nothing else to do. 0: only when asked.",
     .min = 0, .max = 1e6},
    {"joint-memory", MAL_OPTION_BYTES, AT(joint_memory), "BYTES", NULL,
     "What the system of all live facts may take of the device's memory; without a limit "
     "its factors are kept between rounds of repair.",
     .min = 1, .max = 1e18},
    {"max-queue", MAL_OPTION_INT, AT(max_queue), "FACTS", "10000",
     "Facts that may wait; more are answered 429.", .min = 1, .max = 1e7},
    {"max-batch-facts", MAL_OPTION_INT, AT(max_batch_facts), "N", "1024",
     "Facts of several jobs that are edited together. A larger job is a batch of its own.",
     .min = 1, .max = 1e7},
    {"batch-window-ms", MAL_OPTION_INT, AT(batch_window_ms), "MS", "20",
     "How long the oldest queued job waits for others to be edited with.", .min = 0,
     .max = 60000},
    {"max-body", MAL_OPTION_BYTES, AT(max_body), "BYTES", "16MiB",
     "Largest request body, and longest line of facts sent as NDJSON.", .min = 1024,
     .max = 1 << 30},
    {"max-bulk", MAL_OPTION_BYTES, AT(max_bulk), "BYTES", "4GiB",
     "Largest body of facts sent as NDJSON: it is checked and put aside while it arrives.",
     .min = 1024, .max = 1e15},
    {"request-timeout", MAL_OPTION_DURATION, AT(request_timeout), "S", "60",
     "Time to receive a whole request, to answer a completion, to send an answer.",
     .min = 0.1, .max = 86400},
    {"max-connections", MAL_OPTION_INT, AT(max_connections), "N", "512",
     "Connections at a time; further ones wait.", .min = 1, .max = 100000},
    {"max-connections-per-address", MAL_OPTION_INT, AT(max_connections_per_address), "N",
     NULL,
     "Connections at a time from one address; further ones are closed. 0: no limit. When not "
     "given: 64, and no limit on a loopback address, where all that a proxy lets through "
     "comes from one.",
     .min = 0, .max = 100000},
    {"max-event-streams", MAL_OPTION_INT, AT(max_event_streams), "N", "64",
     "Clients of GET /v1/events at a time, out of those connections; further ones are "
     "answered 503.",
     .min = 0, .max = 100000},
    {"read-stream", MAL_OPTION_CHOICE, AT(read_stream), "auto|on|off", "auto",
     "on: completions and scores run on a stream of the device and a thread of their own, "
     "beside changes. off: between two slices of a change. auto: on a GPU."},
    {"keep-versions", MAL_OPTION_INT, AT(keep_versions), "N", "2",
     "Versions kept in memory beside live and base. While another one is evaluated, that "
     "is in memory, too.",
     .min = 0, .max = 200},
    {"probes", MAL_OPTION_TEXT, AT(probes), "FILE", NULL,
     "Prompts that must go on being answered as the base model does, beside the unrelated "
     "ones of the facts: JSON (with a target, which says how long the answer is, or "
     "without), or a line each. Of more than 1024 a sample is asked."},
    {"suites", MAL_OPTION_TEXT, AT(suites), "DIR", NULL,
     "Facts for evaluations, which ask for them by name: each NAME.json, NAME.ndjson or "
     "NAME.jsonl in it, of --max-queue facts at most, is the suite NAME."},
    {"gate-min-es", MAL_OPTION_REAL, AT(gate.min_es), "X", NULL,
     "Refuse a batch that leaves less than this share of its facts right. "
     "Requests may be stricter than these limits, never laxer.",
     .min = 0, .max = 1},
    {"gate-min-gs", MAL_OPTION_REAL, AT(gate.min_gs), "X", NULL,
     "The same of their rephrases.", .min = 0, .max = 1},
    {"gate-min-ls", MAL_OPTION_REAL, AT(gate.min_ls), "X", NULL,
     "The same of their unrelated prompts that have a target.", .min = 0, .max = 1},
    {"gate-measure", MAL_OPTION_CHOICE, AT(gate.measure), "decoded|teacher_forced",
     "decoded",
     "Which shares these three are about, where a request says nothing else: whole answers "
     "as the model gives them by itself, or single tokens."},
    {"gate-min-agreement", MAL_OPTION_REAL, AT(gate.min_agreement), "X", NULL,
     "Refuse a batch after which less than this share of probes and unrelated prompts is "
     "answered as the base model does.",
     .min = 0, .max = 1},
    {"gate-max-norm-growth", MAL_OPTION_REAL, AT(gate.max_norm_growth), "X", NULL,
     "Refuse a batch that leaves an edited weight's norm more than this share above the "
     "base weight's.",
     .min = 0, .max = INFINITY},
    {"gate-max-perplexity-growth", MAL_OPTION_REAL, AT(gate.max_perplexity_growth), "X",
     NULL,
     "Refuse a batch that leaves the perplexity of the texts to preserve more than this "
     "share above the base model's.",
     .min = 0, .max = INFINITY},
    {"gate-bisect", MAL_OPTION_FLAG, AT(gate.bisect), NULL, NULL,
     "Of a refused batch, find the facts that did it and publish the others."},
    {"keyframe-every", MAL_OPTION_INT, AT(keyframe_every), "N", "16",
     "Every so many versions the whole shift of each module is stored, so that a replay reads "
     "no more deltas and older versions can be pruned. 0: never.",
     .min = 0, .max = 1e6},
    {"retain-bytes", MAL_OPTION_BYTES, AT(retain_bytes), "BYTES", NULL,
     "What all versions may take in the database. When it is more, the weights of the oldest "
     "are pruned; their rows and the hash chain stay. No limit unless given.",
     .min = 1, .max = 1e18},
    {"retain-age", MAL_OPTION_DURATION, AT(retain_age), "DURATION", NULL,
     "Versions older than this, such as 30d, are pruned likewise, after each new version. "
     "Kept for ever unless given. The last --keep-versions stay in any case.",
     .min = 1, .max = 1e10},
    {"min-free-disk", MAL_OPTION_BYTES, AT(min_free_disk), "BYTES", "256MiB",
     "With less free where the database is, new edits are answered 507 and queued ones wait. "
     "0: until the disk is full.",
     .min = 0, .max = 1e18},
    {"save-every", MAL_OPTION_DURATION, AT(save_every), "S", "30",
     "An edit that fine-tunes is saved so often as DB.state, beside the database, and goes "
     "on from there after a restart.",
     .min = 0, .max = 1e6},
    {"check-config", MAL_OPTION_FLAG, AT(check_config), NULL, NULL,
     "Do not serve: look at all options and files, whether they fit each other and the "
     "database, and print with what the daemon would run. Exit code 0: it would start; 1: "
     "it would not, and why. Only on the command line.",
     .here_only = true},
    {"json", MAL_OPTION_FLAG, AT(json), NULL, NULL,
     "Of --check-config, as JSON. Only on the command line.", .here_only = true},
    {NULL},
};

static const struct mal_option_set set = {
    .command = "serve",
    .about =
        "Serves a model over HTTP: completions and scores, and edits that become numbered "
        "versions.\n\nEvery event is a JSON line on stderr. SIGTERM stops the daemon; "
        "whatever it had accepted is in the database and goes on at the next start.\n\n"
        "Under a service manager it takes the socket that it is given (LISTEN_FDS), and "
        "tells when it is ready, what it does and that it lives (NOTIFY_SOCKET, "
        "WATCHDOG_USEC).",
    .options = options,
    .configurable = true,
};

static int check(const struct mal_serve_options *o, const struct values *v,
                 json_t *origins) {
    json_t *values = mal_options_to_json(&set, v);
    struct mal_config_check check = {
        .serve = o, .options = values, .origins = origins, .json = v->json};
    int code = 1;
    if (values) {
        code = mal_config_check(&check);
    } else {
        fprintf(stderr, "malmend serve: options: out of memory\n");
    }
    json_decref(values);
    return code;
}

static int run(const struct mal_serve_options *o, const struct values *v,
               json_t *origins) {
    struct mal_error err = {0};
    int code;
    if (v->check_config) return check(o, v, origins);
    if (v->json) {
        mal_fail(&err, MAL_INVALID, "--json is for --check-config");
        return mal_options_misused(&set, &err);
    }
    if (!mal_options_check(&set, v, origins, &code)) return code;
    if (mal_serve(o, &code, &err)) return code;
    fprintf(stderr, "malmend serve: %s\n", mal_text_line(err.text));
    return 1;
}

int mal_cmd_serve(int argc, char **argv) {
    struct values v = {0};
    json_t *origins = NULL;
    int code = 1;
    if (!mal_options_parse_origins(&set, argc, argv, &v, &origins, &code)) {
        mal_options_finish(&set, &v);
        return code;
    }
    bool limited = v.max_connections_per_address != MAL_OPTION_UNSET;
    bool by_bytes = v.retain_bytes != MAL_OPTION_UNSET, by_age = !isnan(v.retain_age);
    struct mal_serve_options o = {
        .model = v.model,
        .editor = v.editor,
        .data = v.data,
        .device = v.device,
        .db = v.db,
        .listen = v.listen,
        .tokens = v.tokens,
        .update = v.update,
        .max_queue = v.max_queue,
        .max_batch_facts = v.max_batch_facts,
        .batch_window_ms = v.batch_window_ms,
        .max_body = v.max_body,
        .max_bulk = v.max_bulk,
        .read_stream = v.read_stream,
        .keep_versions = v.keep_versions,
        .max_connections = v.max_connections,
        .max_per_address = limited ? v.max_connections_per_address : -1,
        .max_event_streams = v.max_event_streams,
        .keyframe_every = v.keyframe_every,
        .retain_bytes = by_bytes ? v.retain_bytes : 0,
        .retain_age = by_age ? v.retain_age : 0,
        .min_free_disk = v.min_free_disk,
        .request_timeout = v.request_timeout,
        .save_every = v.save_every,
        .preserve = v.preserve,
        .preserve_weight = v.preserve_weight,
        .repair_rounds = v.repair_rounds,
        .repair_tau = v.repair_tau,
        .verify_limit = v.verify_limit,
        .no_scrub = v.no_scrub,
        .consolidate_after = v.consolidate_after,
        .joint_memory = v.joint_memory == MAL_OPTION_UNSET ? 0 : v.joint_memory,
        .probes = v.probes,
        .suites = v.suites};
    mal_gate_init(&o.gate, &v.gate);
    code = run(&o, &v, origins);
    json_decref(origins);
    mal_options_finish(&set, &v);
    return code;
}
