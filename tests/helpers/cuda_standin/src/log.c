/* The log of calls, and the settings from the environment. */
#include "standin.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static FILE *log_file;
static pthread_once_t log_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;

static void open_log(void) {
    const char *path = getenv("CUDA_STANDIN_LOG");
    if (path == NULL)
        return;
    log_file = fopen(path, "a");
    /* A line is written at once, so that a crash leaves the lines before it. */
    if (log_file != NULL)
        setvbuf(log_file, NULL, _IOLBF, 0);
}

void standin_event(const char *format, ...) {
    pthread_once(&log_once, open_log);
    if (log_file == NULL)
        return;
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&log_mutex);
    vfprintf(log_file, format, arguments);
    fputc('\n', log_file);
    pthread_mutex_unlock(&log_mutex);
    va_end(arguments);
}

long standin_setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtol(text, NULL, 10);
}
