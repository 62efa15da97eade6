/* handlers.h - one function a call of the API; the table is in router.c. Each answers its
 * request once, now or later, on the loop's thread. */
#ifndef MAL_HANDLERS_H
#define MAL_HANDLERS_H

struct mal_daemon;
struct mal_request;

/* At the headers: facts as lines are taken while they arrive. */
void mal_begin_edits(struct mal_daemon *d, struct mal_request *req);
void mal_post_edits(struct mal_daemon *d, struct mal_request *req);
void mal_post_rollbacks(struct mal_daemon *d, struct mal_request *req);
void mal_post_retractions(struct mal_daemon *d, struct mal_request *req);
void mal_post_consolidations(struct mal_daemon *d, struct mal_request *req);
void mal_post_evaluations(struct mal_daemon *d, struct mal_request *req);
void mal_list_jobs(struct mal_daemon *d, struct mal_request *req);
void mal_get_job(struct mal_daemon *d, struct mal_request *req);
void mal_cancel_job(struct mal_daemon *d, struct mal_request *req);
void mal_list_facts(struct mal_daemon *d, struct mal_request *req);
void mal_get_fact(struct mal_daemon *d, struct mal_request *req);
void mal_delete_fact(struct mal_daemon *d, struct mal_request *req);
void mal_list_versions(struct mal_daemon *d, struct mal_request *req);
void mal_get_version(struct mal_daemon *d, struct mal_request *req);
void mal_get_version_diff(struct mal_daemon *d, struct mal_request *req);
void mal_get_version_facts(struct mal_daemon *d, struct mal_request *req);
void mal_get_version_delta(struct mal_daemon *d, struct mal_request *req);
void mal_post_completions(struct mal_daemon *d, struct mal_request *req);
void mal_post_scores(struct mal_daemon *d, struct mal_request *req);
void mal_list_audit(struct mal_daemon *d, struct mal_request *req);
void mal_list_models(struct mal_daemon *d, struct mal_request *req);
void mal_get_model(struct mal_daemon *d, struct mal_request *req);
void mal_get_events(struct mal_daemon *d, struct mal_request *req);
void mal_get_status(struct mal_daemon *d, struct mal_request *req);
void mal_get_metrics(struct mal_daemon *d, struct mal_request *req);
void mal_get_livez(struct mal_daemon *d, struct mal_request *req);
void mal_get_readyz(struct mal_daemon *d, struct mal_request *req);
void mal_get_dashboard(struct mal_daemon *d, struct mal_request *req);
void mal_get_openapi(struct mal_daemon *d, struct mal_request *req);

#endif
