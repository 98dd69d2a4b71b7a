// What the opaque handles of minit2i.h hold.
#pragma once

#include "bundle/bundle.hpp"
#include "engine/engine.hpp"
#include "minit2i.h"
#include "sampling/record.hpp"
#include "text/embed.hpp"

#include <optional>
#include <string>
#include <vector>

struct minit2i_client {
    minit2i_client(const char *path, const minit2i_open_params &params);

    const minit2i::Tokenizer &tokenizer();

    minit2i::Bundle bundle;
    minit2i::Engine engine;
    minit2i::Warn warn;

private:
    std::optional<minit2i::Tokenizer> tokenizer_;
};

struct minit2i_embeddings {
    minit2i::Embedded embedded;
    std::vector<float> pooled;
};

struct minit2i_pictures {
    minit2i::Painted painted;
    std::vector<minit2i::TextFields> fields;
    std::size_t size = 0;
    std::string table;
};
