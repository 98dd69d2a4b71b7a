#include "text/unigram.hpp"

#include "common/unicode.hpp"

#include <algorithm>

namespace minit2i {
namespace {

constexpr double kUnknownPenalty = 10.0;

} // namespace

Unigram::Unigram(const Json &value) : longest_(256, 0) {
    if (member(value, "type") != "Unigram" || value.value("byte_fallback", false)) {
        throw JsonError("model is not Unigram without byte fallback, so not T5's");
    }
    const Json &vocabulary = expect_list(member(value, "vocab"), "vocab");
    if (vocabulary.empty()) {
        throw JsonError("vocab is empty");
    }
    pieces_.reserve(vocabulary.size());
    double lowest = 0.0;
    for (const Json &entry : vocabulary) {
        if (!entry.is_array() || entry.size() != 2) {
            throw JsonError("vocab needs pairs of a piece and a score");
        }
        pieces_.push_back(expect_text(entry[0], "vocab"));
        scores_.push_back(expect_number(entry[1], "vocab"));
        lowest = pieces_.size() == 1 ? scores_[0] : std::min(lowest, scores_.back());
    }
    for (std::size_t id = 0; id < pieces_.size(); ++id) {
        const std::string &piece = pieces_[id];
        if (!piece.empty()) {
            ids_[piece] = static_cast<std::int64_t>(id);
            std::size_t &longest = longest_[static_cast<unsigned char>(piece[0])];
            longest = std::max(longest, piece.size());
        }
    }
    unknown_id_ = expect_integer(member(value, "unk_id"), "unk_id");
    if (unknown_id_ < 0 || unknown_id_ >= static_cast<std::int64_t>(pieces_.size())) {
        throw JsonError("unk_id is outside the vocab");
    }
    unknown_score_ = lowest - kUnknownPenalty;
}

std::string_view Unigram::piece(std::int64_t id) const {
    const auto index = static_cast<std::size_t>(id);
    return index < pieces_.size() ? std::string_view(pieces_[index]) : std::string_view();
}

std::int64_t Unigram::find(std::string_view piece) const {
    const auto entry = ids_.find(piece);
    return entry == ids_.end() ? -1 : entry->second;
}

void Unigram::relax(std::string_view text, std::size_t start, std::vector<Best> &best) const {
    const double so_far = best[start].score;
    const auto offer = [&](std::size_t end, std::int64_t id, double score) {
        // Only a better score replaces: of equals the earlier start stays, as in the Python side.
        if (!best[end].reached || score > best[end].score) {
            best[end] = {id, score, start, true};
        }
    };
    const std::size_t character = decode_at(text, start).num_bytes;
    const std::size_t limit =
        std::min(longest_[static_cast<unsigned char>(text[start])], text.size() - start);
    bool has_single = false;
    for (std::size_t length = 1; length <= limit; ++length) {
        const std::int64_t id = find(text.substr(start, length));
        if (id >= 0) {
            offer(start + length, id, scores_[static_cast<std::size_t>(id)] + so_far);
            has_single = has_single || length == character;
        }
    }
    if (!has_single) {
        offer(start + character, unknown_id_, unknown_score_ + so_far);
    }
}

void Unigram::encode(std::string_view text, std::vector<std::int64_t> &ids) const {
    std::vector<Best> best(text.size() + 1);
    for (std::size_t start = 0; start < text.size(); start += decode_at(text, start).num_bytes) {
        relax(text, start, best);
    }
    std::vector<std::int64_t> backwards;
    std::size_t unknown_end = 0; // where an open run of unknown characters ends, 0: none is open
    const auto close_run = [&](std::size_t start) {
        if (unknown_end > 0) {
            const std::int64_t id = find(text.substr(start, unknown_end - start));
            backwards.push_back(id < 0 ? unknown_id_ : id);
            unknown_end = 0;
        }
    };
    std::size_t end = text.size();
    while (end > 0) {
        if (best[end].id == unknown_id_) {
            unknown_end = unknown_end > 0 ? unknown_end : end;
        } else {
            close_run(end);
            backwards.push_back(best[end].id);
        }
        end = best[end].start;
    }
    close_run(0);
    ids.insert(ids.end(), backwards.rbegin(), backwards.rend());
}

} // namespace minit2i
