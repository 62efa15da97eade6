/* resume.c - the file that an edit is kept in, as far as all have it in common. */
#include "core/editor/resume.h"

#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/safetensors.h"

const char mal_resume_format[] = "malmend-edit-1";

bool mal_resume_open(struct mal_safetensors **out, const char *path,
                     struct mal_error *err) {
    struct mal_safetensors *file;
    if (!mal_safetensors_open(&file, path, err)) return false;
    const char *format = mal_safetensors_metadata(file, "format");
    *out = file;
    if (format && !strcmp(format, mal_resume_format) &&
        mal_safetensors_metadata(file, "run") && mal_safetensors_metadata(file, "work"))
        return true;
    mal_safetensors_close(file);
    return mal_fail(err, MAL_CORRUPT, "%s: not the state of an edit (format %s)",
                    mal_file_shown(path), mal_resume_format);
}

bool mal_resume_run(const char *path, char **out, struct mal_error *err) {
    struct mal_safetensors *file;
    if (!mal_resume_open(&file, path, err)) return false;
    *out = mal_strdup(mal_safetensors_metadata(file, "run"));
    mal_safetensors_close(file);
    return *out || mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
}
