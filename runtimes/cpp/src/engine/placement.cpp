#include "engine/placement.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

namespace minit2i {
namespace {

// Operators whose place decides the time; small ones on shapes may stay on the CPU.
constexpr std::array<const char *, 6> kHeavy{"Attention", "Conv",   "FusedMatMul",
                                             "Gemm",      "MatMul", "Softmax"};
constexpr char kPlaced[] = " placed on [";
constexpr char kCount[] = "Number of nodes: ";

bool is_heavy(const std::string &name) {
    return std::any_of(kHeavy.begin(), kHeavy.end(),
                       [&name](const char *heavy) { return name == heavy; });
}

} // namespace

void PlacementLog::listen(Ort::SessionOptions &options) {
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_VERBOSE);
    Ort::ThrowOnError(Ort::GetApi().SetUserLoggingFunction(options, on_message, this));
}

void ORT_API_CALL PlacementLog::on_message(void *self, OrtLoggingLevel, const char *, const char *,
                                           const char *, const char *message) {
    auto &log = *static_cast<PlacementLog *>(self);
    if (!log.is_open_ || message == nullptr) {
        return;
    }
    try {
        log.read(message);
    } catch (...) {
        // No exception may pass through the library.
        log.is_open_ = false;
    }
}

// " Node(s) placed on [P]. Number of nodes: N", then "  MatMul (name)" for each of them; with one
// provider " All nodes placed on [P]. ..." alone.
void PlacementLog::read(const std::string &message) {
    const std::size_t placed = message.find(kPlaced);
    if (placed != std::string::npos) {
        const std::size_t start = placed + std::strlen(kPlaced);
        provider_ = message.substr(start, message.find(']', start) - start);
        const std::size_t count = message.find(kCount);
        num_nodes_[provider_] += count == std::string::npos
                                     ? 1
                                     : std::atoi(message.c_str() + count + std::strlen(kCount));
        return;
    }
    const std::size_t name_end = message.find(" (");
    if (provider_.empty() || message.compare(0, 2, "  ") != 0 || name_end == std::string::npos) {
        provider_.clear();
        return;
    }
    ++operators_[provider_][message.substr(2, name_end - 2)];
}

std::string PlacementLog::elsewhere(const std::vector<std::string> &providers) const {
    const auto is_asked_for = [&providers](const auto &entry) {
        return std::find(providers.begin(), providers.end(), entry.first) != providers.end();
    };
    if (!std::any_of(num_nodes_.begin(), num_nodes_.end(), is_asked_for)) {
        return "everything";
    }
    std::map<std::string, int> strays;
    for (const auto &entry : operators_) {
        for (const auto &[name, count] : entry.second) {
            if (!is_asked_for(entry) && is_heavy(name)) {
                strays[name] += count;
            }
        }
    }
    std::string result;
    for (const auto &[name, count] : strays) {
        result += (result.empty() ? "" : ", ") + std::to_string(count) + " " + name;
    }
    return result;
}

} // namespace minit2i
