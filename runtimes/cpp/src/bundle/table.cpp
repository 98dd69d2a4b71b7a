#include "bundle/table.hpp"

#include "common/failure.hpp"
#include "common/files.hpp"
#include "common/python_json.hpp"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>

namespace minit2i {
namespace {

constexpr std::size_t kMaxRows = 20000;
constexpr double kTimeRounding = 1e-9;
constexpr std::array<const char *, 13> kColumns{
    "t", "a", "b", "c", "n", "s", "share", "clip", "rescale", "h", "omega", "t_min", "t_max"};
constexpr std::size_t kNumBaseColumns = 9;

bool is_name(const std::string &name) {
    return !name.empty() && std::isalnum(static_cast<unsigned char>(name[0])) &&
           std::all_of(name.begin(), name.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                      c == '.' || c == '_' || c == '-';
           });
}

} // namespace

Table::Table(std::string name, std::vector<std::string> columns,
             std::vector<std::vector<double>> rows, Json meta)
    : name_(std::move(name)), columns_(std::move(columns)), rows_(std::move(rows)),
      meta_(std::move(meta)) {
    check_layout();
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        check_row(row);
    }
}

double Table::value(std::size_t row, std::string_view column) const {
    const auto place = std::find(columns_.begin(), columns_.end(), column);
    return rows_[row][static_cast<std::size_t>(place - columns_.begin())];
}

std::array<float, 6> Table::step_row(std::size_t row) const {
    const double n = value(row, "n");
    const double c = n != 0.0 ? n : value(row, "c");
    return {static_cast<float>(value(row, "a")),
            static_cast<float>(value(row, "b")),
            static_cast<float>(c),
            static_cast<float>(value(row, "s")),
            static_cast<float>(value(row, "clip")),
            static_cast<float>(value(row, "rescale"))};
}

std::vector<float> Table::guidance_weights(std::size_t row, double guidance) const {
    const double scale = 1.0 + (guidance - 1.0) * value(row, "share");
    if (!(std::abs(scale) < FLT_MAX)) {
        fail_usage("guidance times a share of table " + name_ +
                   " must fit float32; use a smaller guidance");
    }
    if (scale == 1.0) {
        return {1.0F};
    }
    return {static_cast<float>(scale), static_cast<float>(1.0 - scale)};
}

Table Table::narrowed(double first, double last) const {
    if (!(0.0 <= first && first <= last && last <= 1.0)) {
        fail_usage("interval must satisfy 0 <= start <= end <= 1, got (" + python_float(first) +
                   ", " + python_float(last) + ")");
    }
    if (is_conditioned()) {
        fail_usage("table " + name_ + " is for a few-step student, which takes no interval; " +
                   "compile one with other t_min and t_max");
    }
    Table result = *this;
    const auto share = static_cast<std::size_t>(
        std::find(columns_.begin(), columns_.end(), "share") - columns_.begin());
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        const double t = value(row, "t");
        // A grid's 0.3 may be the float beside 0.3; the bounds are meant in decimals.
        const bool inside = first - kTimeRounding <= t && t <= last + kTimeRounding;
        result.rows_[row][share] *= inside ? 1.0 : 0.0;
    }
    result.name_ += "-i" + short_float(first) + "-" + short_float(last);
    result.meta_["interval"] = {first, last};
    return result;
}

std::string Table::to_json() const {
    std::string rows;
    for (const std::vector<double> &row : rows_) {
        rows += (rows.empty() ? "" : ",\n    ") + python_json(Json(row));
    }
    return "{\n  \"columns\": " + python_json(Json(columns_)) +
           ",\n  \"format_version\": 1,\n  \"meta\": " + python_json(meta_) +
           ",\n  \"name\": " + python_json(Json(name_)) + ",\n  \"rows\": [\n    " + rows +
           "\n  ]\n}\n";
}

void Table::check_layout() const {
    if (!is_name(name_)) {
        throw JsonError("table name " + quote(name_) +
                        " must be letters, digits, dots, dashes and underscores");
    }
    const bool base = columns_.size() == kNumBaseColumns;
    const std::size_t expected = base ? kNumBaseColumns : kColumns.size();
    bool complete = columns_.size() == expected;
    for (std::size_t i = 0; i < expected; ++i) {
        complete = complete && std::count(columns_.begin(), columns_.end(), kColumns[i]) == 1;
    }
    if (!complete) {
        throw JsonError("table " + quote(name_) + " has columns " +
                        python_json(Json(columns_)).substr(0, 120) +
                        ", but each of t a b c n s share clip rescale is needed once, and for a "
                        "few-step student each of h omega t_min t_max");
    }
    const bool even = std::all_of(rows_.begin(), rows_.end(), [this](const auto &row) {
        return row.size() == columns_.size();
    });
    if (rows_.empty() || rows_.size() > kMaxRows || !even) {
        throw JsonError("table " + quote(name_) + " has " + std::to_string(rows_.size()) +
                        " rows, but 1 to 20000 rows of " + std::to_string(columns_.size()) +
                        " are needed");
    }
}

void Table::require(bool good, std::size_t row, const char *rule) const {
    if (!good) {
        throw JsonError("table " + quote(name_) + " row " + std::to_string(row) + ": " + rule);
    }
}

void Table::check_row(std::size_t row) const {
    // The graph takes float32, where a larger value would become infinity.
    require(std::all_of(rows_[row].begin(), rows_[row].end(),
                        [](double number) { return std::fabs(number) <= FLT_MAX; }),
            row, "every value must fit float32");
    const double t = value(row, "t");
    const double rescale = value(row, "rescale");
    require(t >= 0.0 && t <= 1.0, row, "t must be in 0..1");
    require(value(row, "clip") >= 0.0, row, "clip must be 0 (off) or positive");
    require(rescale >= 0.0 && rescale <= 1.0, row, "rescale must be in 0..1");
    require(value(row, "n") == 0.0 || value(row, "c") == 0.0, row,
            "noise takes the place of h, so c must be 0");
    if (is_conditioned()) {
        check_conditions(row);
    }
}

void Table::check_conditions(std::size_t row) const {
    const double h = value(row, "h");
    const double t_min = value(row, "t_min");
    const double t_max = value(row, "t_max");
    require(h >= 0.0 && h <= 1.0, row, "h must be in 0..1");
    require(value(row, "omega") >= 1.0, row, "omega must be 1 (no guidance) or more");
    require(0.0 <= t_min && t_min <= t_max && t_max <= 1.0, row, "0 <= t_min <= t_max <= 1");
    // omega guides the student already; a second branch would guide twice.
    require(value(row, "share") == 0.0, row, "share must be 0 where omega is given");
}

Table read_table(std::string_view text) {
    const Json value = parse_json(text);
    expect_fields(value, "table", {"columns", "format_version", "meta", "name", "rows"});
    const std::int64_t version = expect_integer(value.at("format_version"), "table.format_version");
    if (version != 1) {
        throw JsonError("table format_version is " + std::to_string(version) +
                        ", but this program reads 1; upgrade minit2i-deploy");
    }
    std::vector<std::string> columns;
    for (const Json &column : expect_list(value.at("columns"), "table.columns")) {
        columns.push_back(expect_text(column, "table.columns"));
    }
    std::vector<std::vector<double>> rows;
    for (const Json &stored : expect_list(value.at("rows"), "table.rows")) {
        std::vector<double> row;
        for (const Json &number : expect_list(stored, "table.rows")) {
            row.push_back(expect_number(number, "table.rows"));
        }
        rows.push_back(std::move(row));
    }
    return {expect_text(value.at("name"), "table.name"), std::move(columns), std::move(rows),
            expect_object(value.at("meta"), "table.meta")};
}

Table load_table(const std::filesystem::path &path) {
    std::string text;
    if (!read_file(path, text)) {
        throw JsonError(path.string() + ": cannot be read");
    }
    try {
        return read_table(text);
    } catch (const JsonError &error) {
        throw JsonError(path.string() + ": " + error.what());
    }
}

} // namespace minit2i
