/* Generate an image of a mix of two prompts, with a line for each step, and save it. */
#include <minit2i.h>

#include <stdio.h>

static int on_progress(void *user_data, uint64_t done, uint64_t total) {
    (void)user_data;
    fprintf(stderr, "row %u of %u\n", (unsigned)done, (unsigned)total);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: %s BUNDLE FILE.png\n", argv[0]);
        return 2;
    }
    /* One image of two parts, the second one with half the weight. */
    const minit2i_text prompts[] = {
        {"a red circle", MINIT2I_NUL_TERMINATED},
        {"a blue square", MINIT2I_NUL_TERMINATED},
    };
    const double weights[] = {1.0, 0.5};
    const uint64_t seed = 7;
    minit2i_generate_params params;
    minit2i_generate_params_defaults(&params, sizeof params);
    params.prompts = prompts;
    params.weights = weights;
    params.num_parts = 2;
    params.seeds = &seed;
    params.num_images = 1;
    params.on_progress = on_progress;

    minit2i_model *model = NULL;
    minit2i_state *state = NULL;
    minit2i_images *images = NULL;
    minit2i_status status = minit2i_open(argv[1], NULL, &model);
    if (status == MINIT2I_OK) {
        status = minit2i_state_new(model, NULL, &state);
    }
    if (status == MINIT2I_OK) {
        status = minit2i_generate(state, &params, &images);
    }
    if (status == MINIT2I_OK) {
        status = minit2i_images_save_png(images, 0, argv[2]);
    }
    if (status != MINIT2I_OK) {
        fprintf(stderr, "%s\n", minit2i_last_error());
    }
    minit2i_images_free(images);
    minit2i_state_free(state);
    minit2i_close(model);
    return status == MINIT2I_OK ? 0 : 1;
}
