/* supervise.h - what a service manager is told of the daemon, and when its watchdog is
 * kept quiet.
 *
 * The loop's tick says that the daemon lives as long as the worker has come by between
 * two slices within the watchdog's interval, or waits for something to do. So a slice may
 * take that long; a worker that is stuck in the device, or a loop that is stuck, ends the
 * service between one and a half and two intervals after its last sign of life. */
#ifndef MAL_SUPERVISE_H
#define MAL_SUPERVISE_H

struct mal_daemon;
struct mal_notify;

/* Several times a second, and when the daemon begins to stop. Takes NULL. */
void mal_supervise(struct mal_daemon *d, struct mal_notify *notify);

#endif
