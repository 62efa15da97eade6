/* fake_work.h - what the fake engine does besides its tables. */
#ifndef FAKE_WORK_H
#define FAKE_WORK_H

/* A prompt "stuck: FILE" takes one slice, or step, until there is that file. */
void fake_stuck(const char *prompt);
/* "slow: N ..." takes N milliseconds. */
void fake_slow(const char *prompt);

#endif
