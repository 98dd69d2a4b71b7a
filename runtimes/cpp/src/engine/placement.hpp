// Where a session's nodes are placed, read from what ONNX Runtime logs while it opens the session:
// its function for that came with 1.24, and every version logs it.
#pragma once

#include "engine/ort_api.hpp"

#include <map>
#include <string>
#include <vector>

namespace minit2i {

class PlacementLog {
public:
    PlacementLog() = default;
    PlacementLog(const PlacementLog &) = delete;
    PlacementLog &operator=(const PlacementLog &) = delete;

    // Makes a session's messages come here, where it must live as long as the session.
    void listen(Ort::SessionOptions &options);
    // The session is open: later messages are dropped.
    void close() { is_open_ = false; }
    // Matrix products and attention elsewhere than on these providers: "2 Gemm, 1 Softmax",
    // "everything" where they have no node at all, or empty.
    std::string elsewhere(const std::vector<std::string> &providers) const;

private:
    static void ORT_API_CALL on_message(void *self, OrtLoggingLevel severity, const char *category,
                                        const char *id, const char *place, const char *message);
    void read(const std::string &message);

    bool is_open_ = true;
    std::string provider_;
    std::map<std::string, int> num_nodes_;
    std::map<std::string, std::map<std::string, int>> operators_;
};

} // namespace minit2i
