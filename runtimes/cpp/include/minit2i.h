/*
 * minit2i: text embeddings and images from a MiniT2I bundle, without Python.
 *
 *     minit2i_model *model = NULL;
 *     minit2i_state *state = NULL;
 *     minit2i_embeddings *embeddings = NULL;
 *     minit2i_text texts[] = {{"a red circle", MINIT2I_NUL_TERMINATED}};
 *     minit2i_embed_params params;
 *     minit2i_embed_params_defaults(&params, sizeof params);
 *     params.texts = texts;
 *     params.num_texts = 1;
 *     if (minit2i_open("my-bundle", NULL, &model) != MINIT2I_OK ||
 *         minit2i_state_new(model, NULL, &state) != MINIT2I_OK ||
 *         minit2i_embed(state, &params, &embeddings) != MINIT2I_OK) {
 *         fprintf(stderr, "%s\n", minit2i_last_error());
 *     } else {
 *         const float *values = minit2i_embeddings_values(embeddings);
 *         ...
 *     }
 *     minit2i_embeddings_free(embeddings);
 *     minit2i_state_free(state);
 *     minit2i_close(model);
 *
 * Threads: a model holds the weights and may be used by any number of threads at once. A state is
 * one caller's use of a model: it takes one call at a time, costs a few hundred bytes, and a second
 * thread that calls it meanwhile gets MINIT2I_ERROR_USAGE. Make one for each thread. Results do not
 * depend on their state or model: they may outlive both, and any number of threads may read one.
 * minit2i_last_error() is per thread.
 *
 * Errors: every function that can fail returns a status. If it is not MINIT2I_OK, the outputs are
 * unchanged (those that were NULL stay NULL) and minit2i_last_error() returns one line: what the
 * call got, what it expected, what to do. No exception leaves the library.
 *
 * Structs with struct_size grow at their end. Fill parameters with their _defaults function, which
 * takes the size that the caller was compiled with, and then set what differs; in structs that the
 * library fills, set struct_size to sizeof first.
 *
 * Text is UTF-8. Arrays are row-major. Numbers have the byte order of the machine.
 */
#ifndef MINIT2I_H
#define MINIT2I_H

#include <stddef.h>
#include <stdint.h>

/* Of this header; minit2i_version() is the library's. Before 1.0.0 each minor version has an ABI of
 * its own, and the shared library's name says which: libminit2i.so.0.1. */
#define MINIT2I_VERSION_MAJOR 0
#define MINIT2I_VERSION_MINOR 1
#define MINIT2I_VERSION_PATCH 0
/* For #if: 100 for 0.1.0. */
#define MINIT2I_VERSION_NUMBER                                                                     \
    (MINIT2I_VERSION_MAJOR * 10000 + MINIT2I_VERSION_MINOR * 100 + MINIT2I_VERSION_PATCH)

/* Define MINIT2I_STATIC to link the static library; find_package and pkg-config do. */
#if defined(MINIT2I_STATIC)
#define MINIT2I_API
#elif defined(_WIN32) && defined(MINIT2I_BUILD)
#define MINIT2I_API __declspec(dllexport)
#elif defined(_WIN32)
#define MINIT2I_API __declspec(dllimport)
#else
#define MINIT2I_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum minit2i_status {
    MINIT2I_OK = 0,
    MINIT2I_ERROR_USAGE = 1,     /* an argument is wrong, also NULL and a buffer too small */
    MINIT2I_ERROR_BUNDLE = 2,    /* the bundle is missing, corrupt or of an unknown version */
    MINIT2I_ERROR_RUNTIME = 3,   /* onnxruntime failed or cannot do what was asked */
    MINIT2I_ERROR_CANCELLED = 4, /* a callback or minit2i_cancel asked for it */
    MINIT2I_ERROR_MEMORY = 5,    /* out of memory */
    MINIT2I_ERROR_INTERNAL = 6   /* a mistake of this library */
} minit2i_status;

typedef struct minit2i_model minit2i_model;
typedef struct minit2i_state minit2i_state;
typedef struct minit2i_embeddings minit2i_embeddings;
typedef struct minit2i_images minit2i_images;

/* Size of a text that ends at its first NUL character. */
#define MINIT2I_NUL_TERMINATED ((size_t)-1)

typedef struct minit2i_text {
    const char *data;
    size_t size_bytes; /* or MINIT2I_NUL_TERMINATED; a NUL inside the text is refused */
} minit2i_text;

/* Called after each piece of work, in the caller's thread; done runs from 1 to total.
 * Anything but 0 cancels. */
typedef int (*minit2i_progress)(void *user_data, uint64_t done, uint64_t total);

/* One line on a setting or a part of a prompt that had no effect, or on wrong arithmetic of this
 * machine. */
typedef void (*minit2i_warning)(void *user_data, const char *text);

/* ---- The library ---- */

/* "0.1.0". */
MINIT2I_API const char *minit2i_version(void);

/* "usage", "bundle" and so on; "unknown" for other numbers. */
MINIT2I_API const char *minit2i_status_name(minit2i_status status);

/* One line on this thread's last failure; valid until this thread's next call. */
MINIT2I_API const char *minit2i_last_error(void);

/* Unit normal noise: the first count values of a seed and stream (0 is the start noise). */
MINIT2I_API minit2i_status minit2i_noise(uint64_t seed, uint32_t stream, float *values,
                                         size_t count);

/* ---- Models ---- */

typedef struct minit2i_model_params {
    size_t struct_size;
    const char *provider;  /* "cpu" (default), "cuda", "tensorrt", "openvino" or "tensorrt-rtx" */
    const char *plugin;    /* library of "openvino" or "tensorrt-rtx", which stays loaded to the end
                              of the process; NULL (default): none */
    const char *precision; /* "fp32" or "bf16", of "openvino"; "fp32" or "tf32", of "cuda", how it
                              multiplies fp32; NULL (default): fp32 there, as the graphs say
                              elsewhere */
    int32_t device;        /* index of the provider's device, from 0 (default) */
    int32_t num_threads;   /* of one operator; 0 (default): the cores this process may use */
    int32_t lean; /* 1: the text encoder leaves memory before the denoiser comes; 0 (default) */
    minit2i_warning on_warning; /* NULL (default): warnings are dropped */
    void *warning_data;
    const char *cuda_graph; /* of "cuda": "on" records each step as a CUDA graph, checked against
                               plain runs, or fails; "auto" (NULL, default) does so where it works
                               and warns where it does not; "off" */
    const char *cache; /* of "cpu": a folder for packed weights, which the next opening maps; twice
                          the bytes of a graph, four times in fp16; with lean also for encoded
                          prompts, as numbers; safe to delete; NULL (default): none */
} minit2i_model_params;

typedef struct minit2i_info {
    size_t struct_size;
    int32_t image_size;         /* height of an image in pixels; image_width may be another */
    int32_t prompt_length;      /* most tokens of a prompt, end token included */
    int32_t embedding_width;    /* values of one token's embedding */
    int32_t is_student;         /* 1: few-step student, whose guidance is an input; 0: base model */
    const char *digest;         /* sha256 of manifest.json; stands for the complete bundle */
    const char *default_preset; /* this text and digest are valid as long as the model */
    int32_t image_width;        /* of an image in pixels */
    int32_t patch_size;         /* heights and widths are multiples of it */
    int32_t min_side; /* least and most pixels of a side, where height and width are free; */
    int32_t max_side; /* 0 (both): images have image_width and image_size alone */
} minit2i_info;

typedef struct minit2i_preset {
    size_t struct_size;
    const char *name;   /* valid as long as the model, like table */
    const char *table;  /* name of its solver table */
    double guidance;    /* its guidance scale; 1 is none */
    int32_t is_default; /* 1: used if none is named */
} minit2i_preset;

typedef struct minit2i_table {
    size_t struct_size;
    const char *name;  /* valid as long as the model */
    uint64_t num_rows; /* steps: each runs the denoiser once, guided ones on two branches */
} minit2i_table;

MINIT2I_API minit2i_status minit2i_model_params_defaults(minit2i_model_params *params, size_t size);

/* Reads the manifest and checks every file's size; graphs are loaded when first needed.
 * params may be NULL for the defaults. *model must be NULL. */
MINIT2I_API minit2i_status minit2i_open(const char *bundle, const minit2i_model_params *params,
                                        minit2i_model **model);

/* Its memory is freed with the last of its states. NULL is allowed. */
MINIT2I_API void minit2i_close(minit2i_model *model);

MINIT2I_API minit2i_status minit2i_get_info(const minit2i_model *model, minit2i_info *info);

/* Presets and tables, each sorted by name. index counts from 0. */
MINIT2I_API size_t minit2i_num_presets(const minit2i_model *model);
MINIT2I_API minit2i_status minit2i_get_preset(const minit2i_model *model, size_t index,
                                              minit2i_preset *preset);
MINIT2I_API size_t minit2i_num_tables(const minit2i_model *model);
MINIT2I_API minit2i_status minit2i_get_table(const minit2i_model *model, size_t index,
                                             minit2i_table *table);

/* Hashes every file of the bundle; progress counts bytes and may be NULL. */
MINIT2I_API minit2i_status minit2i_verify(const minit2i_model *model, minit2i_progress on_progress,
                                          void *progress_data);

/* Token ids of one text, the end token last. ids has room for capacity of them and may be NULL
 * if capacity is 0. *num_ids is set to the number of ids also if the room is too small
 * (MINIT2I_ERROR_USAGE). was_cut may be NULL. */
MINIT2I_API minit2i_status minit2i_tokenize(const minit2i_model *model, minit2i_text text,
                                            int64_t *ids, size_t capacity, size_t *num_ids,
                                            int32_t *was_cut);

/* ---- States ---- */

typedef struct minit2i_state_params {
    size_t struct_size;
    minit2i_warning on_warning; /* NULL (default): the model's */
    void *warning_data;
} minit2i_state_params;

MINIT2I_API minit2i_status minit2i_state_params_defaults(minit2i_state_params *params, size_t size);

/* params may be NULL for the defaults. *state must be NULL. */
MINIT2I_API minit2i_status minit2i_state_new(minit2i_model *model,
                                             const minit2i_state_params *params,
                                             minit2i_state **state);

/* NULL is allowed; a state with a call in progress is not. */
MINIT2I_API void minit2i_state_free(minit2i_state *state);

/* Ends the call in progress early, with MINIT2I_ERROR_CANCELLED; without one it does nothing.
 * For any thread, also inside a callback. */
MINIT2I_API void minit2i_cancel(minit2i_state *state);

/* ---- Text embeddings ---- */

typedef struct minit2i_embed_params {
    size_t struct_size;
    const minit2i_text *texts;
    size_t num_texts;
    size_t batch_size;            /* most texts that the encoder sees at once; default 32 */
    minit2i_progress on_progress; /* after each batch, counts texts; NULL (default): none */
    void *progress_data;
} minit2i_embed_params;

MINIT2I_API minit2i_status minit2i_embed_params_defaults(minit2i_embed_params *params, size_t size);

/* Embeds texts; results are in the order of the texts. *embeddings must be NULL. */
MINIT2I_API minit2i_status minit2i_embed(minit2i_state *state, const minit2i_embed_params *params,
                                         minit2i_embeddings **embeddings);

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

/* ---- Images ---- */

/* The images as they would be if this row were the last one. */
typedef struct minit2i_frame {
    size_t struct_size;
    uint64_t row; /* of the table, from 0 */
    uint64_t num_rows;
    double t; /* time of the row, 0 noise to 1 data */
    size_t num_images;
    size_t size;           /* height in pixels */
    const uint8_t *pixels; /* uint8 [num_images, height, width, 3]; valid during the call */
    const float *estimate; /* float32 [num_images, 3, height, width], the guided estimate of the
                              clean image, -1 black to 1 white; valid during the call */
    size_t width;          /* in pixels */
    size_t height;
} minit2i_frame;

/* Called after each row of the table. Anything but 0 cancels. */
typedef int (*minit2i_preview)(void *user_data, const minit2i_frame *frame);

typedef struct minit2i_generate_params {
    size_t struct_size;
    const minit2i_text *prompts; /* [num_images, num_parts]; texts may be empty */
    const uint64_t *seeds;       /* [num_images]; NULL (default): all 0 */
    size_t num_images;
    size_t num_parts;             /* texts that are mixed for one image; default 1 */
    const double *weights;        /* [num_parts], divided by their sum, the same for all images;
                                     NULL (default): all 1 */
    const minit2i_text *negative; /* in place of the unconditional branch; NULL (default): none */
    const char *preset;           /* NULL (default): the bundle's default preset */
    const char *table;            /* a table of the bundle, or a .json file; NULL: the preset's */
    double guidance;              /* NaN (default): the preset's; 1 is none */
    double interval_start;        /* guide only rows with start <= t <= end; */
    double interval_end;          /* NaN (default, both): as the table says */
    const float *noise; /* float32 [num_images, 3, height, width], unit normal; NULL: the seeds' */
    size_t noise_count; /* number of floats in noise */
    minit2i_progress on_progress; /* after each row of the table; NULL (default): none */
    void *progress_data;
    minit2i_preview on_preview; /* after each row of the table; NULL (default): none */
    void *preview_data;
    /* Editing. Images are float32 [num_images, 3, height, width], -1 black to 1 white (a byte v is
     * v / 127.5 - 1), and masks [num_images, 1, height, width]; one image or mask serves them
     * all. */
    const float *init_image; /* image to begin with; NULL (default): noise alone */
    size_t init_image_count; /* number of floats in init_image */
    double strength;         /* how much of init_image is new: 0 gives it back, 1 leaves nothing of
                                it; NaN (default) without init_image */
    const float *known; /* image whose pixels stay where known_mask is 1; NULL (default): none */
    size_t known_count; /* number of floats in known */
    const float *known_mask; /* 1 stays, 0 is new, between them mixed; NULL without known */
    size_t known_mask_count; /* number of floats in known_mask */
    int32_t width;           /* of the images in pixels, where the bundle's are free (min_side of */
    int32_t height;          /* minit2i_info); 0 (default, both): the bundle's own */
} minit2i_generate_params;

MINIT2I_API minit2i_status minit2i_generate_params_defaults(minit2i_generate_params *params,
                                                            size_t size);

/* Generates num_images images; one does not depend on the others. *images must be NULL. */
MINIT2I_API minit2i_status minit2i_generate(minit2i_state *state,
                                            const minit2i_generate_params *params,
                                            minit2i_images **images);

MINIT2I_API size_t minit2i_images_count(const minit2i_images *images);
/* In pixels; size is the height. */
MINIT2I_API size_t minit2i_images_size(const minit2i_images *images);
MINIT2I_API size_t minit2i_images_width(const minit2i_images *images);
MINIT2I_API size_t minit2i_images_height(const minit2i_images *images);
/* uint8 [count, height, width, 3]: red, green, blue. */
MINIT2I_API const uint8_t *minit2i_images_pixels(const minit2i_images *images);
/* float32 [count, 3, height, width]: the final state, -1 black to 1 white, not clamped. */
MINIT2I_API const float *minit2i_images_state(const minit2i_images *images);
/* Seconds that the rows of the table took. */
MINIT2I_API double minit2i_images_step_seconds(const minit2i_images *images);
/* Name of the table and the guidance scale that were used. */
MINIT2I_API const char *minit2i_images_table(const minit2i_images *images);
MINIT2I_API double minit2i_images_guidance(const minit2i_images *images);
/* Writes one image as PNG with its settings in text fields; the file is replaced at once or not at
 * all. */
MINIT2I_API minit2i_status minit2i_images_save_png(const minit2i_images *images, size_t index,
                                                   const char *path);
MINIT2I_API void minit2i_images_free(minit2i_images *images);

#ifdef __cplusplus
}
#endif

#endif
