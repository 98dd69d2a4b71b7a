/* Embed a list of strings and print how alike each is to the first. */
#include <minit2i.h>

#include <stdio.h>

int main(int argc, char **argv) {
    const minit2i_text texts[] = {
        {"a red circle", MINIT2I_NUL_TERMINATED},
        {"a crimson circle", MINIT2I_NUL_TERMINATED},
        {"two blue squares", MINIT2I_NUL_TERMINATED},
    };
    const size_t num_texts = sizeof texts / sizeof texts[0];
    if (argc != 2) {
        fprintf(stderr, "usage: %s BUNDLE\n", argv[0]);
        return 2;
    }
    minit2i_client *client = NULL;
    minit2i_embeddings *embeddings = NULL;
    if (minit2i_open(argv[1], NULL, &client) != MINIT2I_OK ||
        minit2i_embed(client, texts, num_texts, &embeddings) != MINIT2I_OK) {
        fprintf(stderr, "%s\n", minit2i_last_error());
        minit2i_close(client);
        return 1;
    }
    minit2i_close(client);
    const float *pooled = minit2i_embeddings_pooled(embeddings);
    const size_t width = minit2i_embeddings_width(embeddings);
    for (size_t text = 0; text < num_texts; ++text) {
        double likeness = 0.0;
        for (size_t i = 0; i < width; ++i) {
            likeness += (double)pooled[i] * (double)pooled[text * width + i];
        }
        printf("%.4f  %s\n", likeness, texts[text].data);
    }
    minit2i_embeddings_free(embeddings);
    return 0;
}
