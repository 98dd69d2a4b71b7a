/* Embed a list of strings and print the similarity of each to the first. */
#include <minit2i.h>

#include <stdio.h>

static void print_similarities(const minit2i_embeddings *embeddings, const minit2i_text *texts) {
    const float *pooled = minit2i_embeddings_pooled(embeddings);
    const size_t width = minit2i_embeddings_width(embeddings);
    for (size_t text = 0; text < minit2i_embeddings_num_texts(embeddings); ++text) {
        double similarity = 0.0;
        for (size_t i = 0; i < width; ++i) {
            similarity += (double)pooled[i] * (double)pooled[text * width + i];
        }
        printf("%.4f  %s\n", similarity, texts[text].data);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s BUNDLE\n", argv[0]);
        return 2;
    }
    const minit2i_text texts[] = {
        {"a red circle", MINIT2I_NUL_TERMINATED},
        {"a crimson circle", MINIT2I_NUL_TERMINATED},
        {"two blue squares", MINIT2I_NUL_TERMINATED},
    };
    minit2i_embed_params params;
    minit2i_embed_params_defaults(&params, sizeof params);
    params.texts = texts;
    params.num_texts = sizeof texts / sizeof texts[0];

    minit2i_model *model = NULL;
    minit2i_state *state = NULL;
    minit2i_embeddings *embeddings = NULL;
    minit2i_status status = minit2i_open(argv[1], NULL, &model);
    if (status == MINIT2I_OK) {
        status = minit2i_state_new(model, NULL, &state);
    }
    if (status == MINIT2I_OK) {
        status = minit2i_embed(state, &params, &embeddings);
    }
    if (status == MINIT2I_OK) {
        print_similarities(embeddings, texts);
    } else {
        fprintf(stderr, "%s\n", minit2i_last_error());
    }
    minit2i_embeddings_free(embeddings);
    minit2i_state_free(state);
    minit2i_close(model);
    return status == MINIT2I_OK ? 0 : 1;
}
