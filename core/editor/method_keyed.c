/* method_keyed.c - MALMEN, MEND and UltraEdit (core/README.md section 3). */
#include "core/editor/editor_impl.h"

const struct mal_method mal_method_malmen = {.name = "malmen",
                                             .title = "MALMEN",
                                             .keyed = true,
                                             .net = true,
                                             .solves = true,
                                             .joint = true,
                                             .edit = mal_keyed_edit,
                                             .read = mal_keyed_read,
                                             .write = mal_keyed_write};

const struct mal_method mal_method_mend = {.name = "mend",
                                           .title = "MEND",
                                           .keyed = true,
                                           .all_tokens = true,
                                           .net = true,
                                           .edit = mal_keyed_edit,
                                           .read = mal_keyed_read,
                                           .write = mal_keyed_write};

const struct mal_method mal_method_ultraedit = {.name = "ultraedit",
                                                .title = "UltraEdit",
                                                .keyed = true,
                                                .running = true,
                                                .normal_keys = true,
                                                .solves = true,
                                                .edit = mal_keyed_edit,
                                                .read = mal_keyed_read,
                                                .write = mal_keyed_write};
