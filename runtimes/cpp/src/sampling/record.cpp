#include "sampling/record.hpp"

#include "minit2i.h"
#include "common/python_json.hpp"
#include "common/sha256.hpp"

namespace minit2i {
namespace {

// The engine's name, the same in every language, so that a picture can be made again in any.
constexpr char kRuntime[] = "onnxruntime";

bool is_bundles_own(const Bundle &bundle, const Table &table, const std::string &text) {
    return bundle.manifest.tables.count(table.name()) != 0 &&
           bundle.table(table.name()).to_json() == text;
}

TextFields fields_of(const Json &record, const std::string &prompt) {
    TextFields fields{{"prompt", prompt}};
    const auto add = [&fields](const char *name, const std::string &text) {
        fields.emplace_back(name, text);
    };
    if (!record.at("negative").is_null()) {
        add("negative", record.at("negative").get<std::string>());
    }
    if (record.at("noise").is_null()) {
        add("seed", record.at("seed").dump());
    } else {
        add("noise", "sha256 " + record.at("noise").get<std::string>());
    }
    add("table", record.at("table_name").get<std::string>());
    add("guidance", python_float(record.at("guidance").get<double>()));
    add("bundle", record.at("bundle").get<std::string>());
    add("runtime", kRuntime);
    add("version", "minit2i-deploy " + record.at("version").get<std::string>());
    add("minit2i", python_json(record));
    return fields;
}

} // namespace

std::vector<TextFields> records(const Bundle &bundle, const Request &request,
                                const Painted &painted) {
    const std::string table = painted.table.to_json();
    Json record{{"bundle", bundle.digest},
                {"checkpoint", bundle.manifest.checkpoint_sha256},
                {"format_version", 1},
                {"guidance", painted.guidance},
                {"negative", nullptr},
                {"noise", nullptr},
                {"runtime", kRuntime},
                {"table", nullptr},
                {"table_name", painted.table.name()},
                {"table_sha256", sha256_hex(table)},
                {"version", minit2i_version()}};
    if (request.negative) {
        record["negative"] = std::string(*request.negative);
    }
    if (!is_bundles_own(bundle, painted.table, table)) {
        record["table"] = Json::parse(table);
    }
    const std::size_t num_values = painted.state.size() / request.prompts.size();
    std::vector<TextFields> result;
    for (std::size_t index = 0; index < request.prompts.size(); ++index) {
        const std::string prompt(request.prompts[index]);
        record["prompt"] = Json::array({Json{{"text", prompt}, {"weight", 1.0}}});
        record["seed"] = request.seeds[index];
        if (request.noise != nullptr) {
            const auto *noise = reinterpret_cast<const char *>(request.noise + index * num_values);
            record["noise"] = sha256_hex({noise, num_values * sizeof(float)});
        }
        result.push_back(fields_of(record, prompt));
    }
    return result;
}

} // namespace minit2i
