/*
 * minit2i: text embeddings and pictures from a MiniT2I bundle, without Python.
 *
 *     minit2i_client *client = NULL;
 *     if (minit2i_open("my-bundle", NULL, &client) != MINIT2I_OK) {
 *         fprintf(stderr, "%s\n", minit2i_last_error());
 *         return 1;
 *     }
 *     minit2i_text texts[] = {{"a red circle", MINIT2I_NUL_TERMINATED}};
 *     minit2i_embeddings *embeddings = NULL;
 *     if (minit2i_embed(client, texts, 1, &embeddings) == MINIT2I_OK) {
 *         const float *values = minit2i_embeddings_values(embeddings);
 *         ...
 *         minit2i_embeddings_free(embeddings);
 *     }
 *     minit2i_close(client);
 *
 * Threads: one client is for one thread at a time; several clients in several threads are fine.
 * Results do not depend on their client: they may outlive it, and any number of threads may read
 * one. minit2i_last_error() is per thread.
 *
 * Errors: every function that can fail returns a status. Where it is not MINIT2I_OK, the outputs
 * are as they were (those that come as NULL stay NULL) and minit2i_last_error() holds one line:
 * what came, what was wanted, what to do. No exception leaves the library.
 *
 * Structs with struct_size grow at their end. Fill them with their _defaults function, which
 * takes the size that the caller was compiled with, and then set what differs.
 *
 * Text is UTF-8. Arrays are row-major. Numbers have the byte order of the machine.
 */
#ifndef MINIT2I_H
#define MINIT2I_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define MINIT2I_API
#else
#define MINIT2I_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum minit2i_status {
    MINIT2I_OK = 0,
    MINIT2I_ERROR_USAGE = 1,     /* an argument is wrong, also NULL and a buffer too small */
    MINIT2I_ERROR_BUNDLE = 2,    /* the bundle is missing, damaged or of an unknown version */
    MINIT2I_ERROR_RUNTIME = 3,   /* onnxruntime failed or cannot do what was asked */
    MINIT2I_ERROR_CANCELLED = 4, /* the progress callback asked for it */
    MINIT2I_ERROR_MEMORY = 5,    /* out of memory */
    MINIT2I_ERROR_INTERNAL = 6   /* a mistake of this library */
} minit2i_status;

typedef struct minit2i_client minit2i_client;
typedef struct minit2i_embeddings minit2i_embeddings;
typedef struct minit2i_pictures minit2i_pictures;

/* Size of a text that ends at its first NUL character. */
#define MINIT2I_NUL_TERMINATED ((size_t)-1)

typedef struct minit2i_text {
    const char *data;
    size_t size_bytes; /* or MINIT2I_NUL_TERMINATED; a NUL inside the text is refused */
} minit2i_text;

/* Called after each piece of work; done runs from 1 to total. Anything but 0 cancels. */
typedef int (*minit2i_progress)(void *user_data, uint64_t done, uint64_t total);

/* One line on a setting or a part of a prompt that had no effect. */
typedef void (*minit2i_warning)(void *user_data, const char *text);

typedef struct minit2i_open_params {
    size_t struct_size;
    const char *provider; /* "cpu" (default), "cuda", "tensorrt", "openvino" or "tensorrt-rtx" */
    int32_t num_threads;        /* of one operator; 0 (default): the cores this process may use */
    minit2i_warning on_warning; /* NULL (default): warnings are dropped */
    void *warning_data;
    int32_t lean; /* 1: the text encoder leaves memory before the denoiser comes; 0 (default) */
    const char *plugin;    /* library of "openvino" or "tensorrt-rtx", which stays loaded to the end
                              of the process; NULL (default): none */
    const char *precision; /* "fp32" or "bf16", of "openvino"; NULL (default): fp32 there, as the
                              graphs say elsewhere */
} minit2i_open_params;

typedef struct minit2i_info {
    size_t struct_size;
    int32_t image_size;         /* height and width of a picture in pixels */
    int32_t prompt_length;      /* most tokens of a prompt, end token included */
    int32_t embedding_width;    /* values of one token's embedding */
    int32_t is_student;         /* 1: few-step student, told its guidance */
    char digest[65];            /* sha256 of manifest.json; stands for the whole bundle */
    char default_preset[128];   /* cut where it is longer */
} minit2i_info;

typedef struct minit2i_generate_params {
    size_t struct_size;
    const minit2i_text *prompts; /* one for each picture; may be empty texts */
    const uint64_t *seeds;       /* one for each picture; NULL (default): all 0 */
    size_t num_pictures;
    const minit2i_text *negative; /* in place of the unconditional branch; NULL (default): none */
    const char *preset;           /* NULL (default): the bundle's default preset */
    const char *table;            /* a table of the bundle, or a .json file; NULL: the preset's */
    double guidance;              /* NaN (default): the preset's; 1 is none */
    double interval_start;        /* guide only rows with start <= t <= end; */
    double interval_end;          /* NaN (default, both): as the table says */
    const float *noise;           /* float32 [num_pictures, 3, size, size], unit normal; NULL: seeds */
    size_t noise_count;           /* number of floats in noise */
    minit2i_progress on_progress; /* after each row of the table; NULL (default): none */
    void *progress_data;
} minit2i_generate_params;

/* "0.1.0". */
MINIT2I_API const char *minit2i_version(void);

/* "usage", "bundle" and so on; "unknown" for a number that is no status. */
MINIT2I_API const char *minit2i_status_name(minit2i_status status);

/* One line on this thread's last failure; valid until this thread's next call. */
MINIT2I_API const char *minit2i_last_error(void);

MINIT2I_API minit2i_status minit2i_open_params_defaults(minit2i_open_params *params, size_t size);

/* Reads the manifest and checks every file's size; graphs are loaded when first needed.
 * params may be NULL for the defaults. *client must be NULL. */
MINIT2I_API minit2i_status minit2i_open(const char *bundle, const minit2i_open_params *params,
                                        minit2i_client **client);

/* NULL is allowed. */
MINIT2I_API void minit2i_close(minit2i_client *client);

/* info->struct_size says how much of it the caller knows. */
MINIT2I_API minit2i_status minit2i_get_info(const minit2i_client *client, minit2i_info *info);

/* Hashes every file of the bundle; progress counts bytes and may be NULL. */
MINIT2I_API minit2i_status minit2i_verify(minit2i_client *client, minit2i_progress on_progress,
                                          void *progress_data);

/* Token ids of one text, the end token last. ids has room for capacity of them and may be NULL
 * where capacity is 0. *num_ids is set to the number of ids also where the room is too small
 * (MINIT2I_ERROR_USAGE). was_cut may be NULL. */
MINIT2I_API minit2i_status minit2i_tokenize(minit2i_client *client, minit2i_text text, int64_t *ids,
                                            size_t capacity, size_t *num_ids, int32_t *was_cut);

/* Embeds texts, in the order they came. *embeddings must be NULL. */
MINIT2I_API minit2i_status minit2i_embed(minit2i_client *client, const minit2i_text *texts,
                                         size_t num_texts, minit2i_embeddings **embeddings);

MINIT2I_API size_t minit2i_embeddings_num_texts(const minit2i_embeddings *embeddings);
/* Tokens of the longest text. */
MINIT2I_API size_t minit2i_embeddings_num_tokens(const minit2i_embeddings *embeddings);
MINIT2I_API size_t minit2i_embeddings_width(const minit2i_embeddings *embeddings);
/* float32 [num_texts, num_tokens, width], zero at padding. */
MINIT2I_API const float *minit2i_embeddings_values(const minit2i_embeddings *embeddings);
/* int64 [num_texts, num_tokens], 1 at real tokens. */
MINIT2I_API const int64_t *minit2i_embeddings_mask(const minit2i_embeddings *embeddings);
/* float32 [num_texts, width]: mean over a text's real tokens, scaled to length 1. */
MINIT2I_API const float *minit2i_embeddings_pooled(const minit2i_embeddings *embeddings);
MINIT2I_API void minit2i_embeddings_free(minit2i_embeddings *embeddings);

/* Unit normal noise: the first count values of a seed and stream (0 is the start noise). */
MINIT2I_API minit2i_status minit2i_noise(uint64_t seed, uint32_t stream, float *values,
                                         size_t count);

MINIT2I_API minit2i_status minit2i_generate_params_defaults(minit2i_generate_params *params,
                                                            size_t size);

/* Paints one picture for each prompt. *pictures must be NULL. */
MINIT2I_API minit2i_status minit2i_generate(minit2i_client *client,
                                            const minit2i_generate_params *params,
                                            minit2i_pictures **pictures);

MINIT2I_API size_t minit2i_pictures_count(const minit2i_pictures *pictures);
/* Height and width. */
MINIT2I_API size_t minit2i_pictures_size(const minit2i_pictures *pictures);
/* uint8 [count, size, size, 3]: red, green, blue. */
MINIT2I_API const uint8_t *minit2i_pictures_pixels(const minit2i_pictures *pictures);
/* float32 [count, 3, size, size]: the final state, -1 black to 1 white, not clamped. */
MINIT2I_API const float *minit2i_pictures_state(const minit2i_pictures *pictures);
/* Seconds that the rows of the table took. */
MINIT2I_API double minit2i_pictures_step_seconds(const minit2i_pictures *pictures);
/* Name of the table and the guidance scale that were used. */
MINIT2I_API const char *minit2i_pictures_table(const minit2i_pictures *pictures);
MINIT2I_API double minit2i_pictures_guidance(const minit2i_pictures *pictures);
/* Writes one picture as PNG, whole or not at all, with what made it in text fields. */
MINIT2I_API minit2i_status minit2i_pictures_save_png(const minit2i_pictures *pictures, size_t index,
                                                     const char *path);
MINIT2I_API void minit2i_pictures_free(minit2i_pictures *pictures);

#ifdef __cplusplus
}
#endif

#endif
