// The fields of a manifest, each by itself; manifest.cpp has the rules between them.
#pragma once

#include "bundle/manifest.hpp"
#include "common/json.hpp"

#include <string>

namespace minit2i {

// Throws JsonError at the first field that is unknown, missing or outside its rule.
Manifest decode_manifest(const Json &value);

// Whether text is 64 lower-case hexadecimal digits.
bool is_sha256(const std::string &text);

} // namespace minit2i
