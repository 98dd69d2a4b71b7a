// The version as text; the numbers are minit2i.h's.
#pragma once

#include "minit2i.h"

#define MINIT2I_TEXT_OF_(number) #number
#define MINIT2I_TEXT_OF(number) MINIT2I_TEXT_OF_(number)

namespace minit2i {

constexpr char kVersion[] = MINIT2I_TEXT_OF(MINIT2I_VERSION_MAJOR) "." MINIT2I_TEXT_OF(
    MINIT2I_VERSION_MINOR) "." MINIT2I_TEXT_OF(MINIT2I_VERSION_PATCH);

} // namespace minit2i

#undef MINIT2I_TEXT_OF
#undef MINIT2I_TEXT_OF_
