/* fake_measure.h - the fake engine's measures and verdict. */
#ifndef MAL_FAKE_MEASURE_H
#define MAL_FAKE_MEASURE_H

#include "daemon/engine/engine.h"

/* Measures, the gate's verdict, the results of the jobs. */
void mal_fake_measure(struct mal_change *change, const struct mal_batch_edit *batch);
/* For a version's row; owned. */
char *mal_fake_measures_text(const struct mal_measures *measures);

#endif
