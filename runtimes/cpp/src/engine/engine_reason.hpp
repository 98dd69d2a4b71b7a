// What an error of ONNX Runtime means to a caller.
#pragma once

#include "minit2i.h"

#include <string>

namespace minit2i {

struct EngineReason {
    minit2i_status status;
    std::string text;
};

// One line: in plain words and with a remedy where memory, CUDA or a library is missing, otherwise
// the first line of the message.
EngineReason engine_reason(const std::string &message);

} // namespace minit2i
