#include "sampling/record.hpp"

#include "common/python_json.hpp"
#include "common/sha256.hpp"
#include "common/version.hpp"

namespace minit2i {
namespace {

// The engine's name, the same in every language, so that an image can be made again in any.
constexpr char kRuntime[] = "onnxruntime";
// As many as the web UI shows of a model's hash.
constexpr std::size_t kShortHashDigits = 10;

bool is_of_bundle(const Bundle &bundle, const Table &table, const std::string &text) {
    return bundle.manifest.tables.count(table.name()) != 0 &&
           bundle.table(table.name()).to_json() == text;
}

Json parts_of(const Request &request, std::size_t image) {
    Json parts = Json::array();
    for (std::size_t part = 0; part < request.weights.size(); ++part) {
        parts.push_back({{"text", std::string(request.prompts[image][part])},
                         {"weight", request.weights[part]}});
    }
    return parts;
}

// For people: the text itself, or of a mix "1 x 'a' + 0.5 x 'b'".
std::string readable(const Json &parts) {
    if (parts.size() == 1) {
        return parts[0].at("text").get<std::string>();
    }
    std::string result;
    for (const Json &part : parts) {
        result += (result.empty() ? "" : " + ") + short_float(part.at("weight").get<double>()) +
                  " x " + python_repr(part.at("text").get<std::string>());
    }
    return result;
}

bool has_edit(const Json &record) {
    return record.contains("edit") && !record.at("edit").is_null();
}

// The text that AUTOMATIC1111's web UI writes and that other programs read. No field is called
// "prompt" or "workflow", which ComfyUI takes for its own JSON.
std::string parameters(const Json &record, std::size_t num_rows) {
    std::string text = readable(record.at("prompt"));
    if (!record.at("negative").is_null()) {
        text += "\nNegative prompt: " + record.at("negative").get<std::string>();
    }
    text += "\nSteps: " + std::to_string(num_rows);
    text += ", Sampler: " + record.at("table_name").get<std::string>();
    text += ", CFG scale: " + python_float(record.at("guidance").get<double>());
    if (record.at("noise").is_null()) {
        text += ", Seed: " + record.at("seed").dump();
    }
    text += ", Model hash: " + record.at("bundle").get<std::string>().substr(0, kShortHashDigits);
    if (has_edit(record) && !record.at("edit").at("strength").is_null()) {
        text +=
            ", Denoising strength: " + python_float(record.at("edit").at("strength").get<double>());
    }
    return text + ", Version: minit2i-deploy " + record.at("version").get<std::string>();
}

TextFields fields_of(const Json &record, std::size_t num_rows) {
    TextFields fields{{"parameters", parameters(record, num_rows)}};
    const auto add = [&fields](const char *name, const std::string &text) {
        fields.emplace_back(name, text);
    };
    if (!record.at("negative").is_null()) {
        add("negative", record.at("negative").get<std::string>());
    }
    if (record.at("noise").is_null()) {
        add("seed", record.at("seed").dump());
    }
    if (record.contains("size")) {
        add("size", record.at("size")[0].dump() + "x" + record.at("size")[1].dump());
    }
    if (has_edit(record)) {
        const Json &edit = record.at("edit");
        for (const char *name : {"init_image", "known", "mask"}) {
            if (!edit.at(name).is_null()) {
                add(name, "sha256 " + edit.at(name).get<std::string>());
            }
        }
        if (!edit.at("strength").is_null()) {
            add("strength", python_float(edit.at("strength").get<double>()));
        }
    }
    if (!record.at("noise").is_null()) {
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

Json json_of(const EditRecord &edit) {
    const auto text_or_null = [](const std::string &text) {
        return text.empty() ? Json(nullptr) : Json(text);
    };
    return {{"feather", 0.0},
            {"init_image", text_or_null(edit.init_image)},
            {"known", text_or_null(edit.known)},
            {"mask", text_or_null(edit.mask)},
            {"outpaint", nullptr},
            {"strength", edit.init_image.empty() ? Json(nullptr) : Json(edit.strength)}};
}

} // namespace

std::vector<TextFields> records(const Bundle &bundle, const Request &request,
                                const Generation &generation) {
    const std::string table = generation.base_table.to_json();
    Json record{{"bundle", bundle.digest},
                {"checkpoint", bundle.manifest.checkpoint_sha256},
                {"format_version", 1},
                {"guidance", generation.guidance},
                {"negative", nullptr},
                {"noise", nullptr},
                {"runtime", kRuntime},
                {"table", nullptr},
                {"table_name", generation.base_table.name()},
                {"table_sha256", sha256_hex(table)},
                {"version", kVersion}};
    if (request.negative) {
        record["negative"] = std::string(*request.negative);
    }
    if (!is_of_bundle(bundle, generation.base_table, table)) {
        record["table"] = Json::parse(table);
    }
    const bool is_own_size = generation.size == bundle.manifest.model.size;
    const std::size_t num_values = generation.state.size() / request.prompts.size();
    std::vector<TextFields> result;
    for (std::size_t index = 0; index < request.prompts.size(); ++index) {
        record["prompt"] = parts_of(request, index);
        record["seed"] = request.seeds[index];
        if (request.noise != nullptr) {
            const auto *noise = reinterpret_cast<const char *>(request.noise + index * num_values);
            record["noise"] = sha256_hex({noise, num_values * sizeof(float)});
        }
        if (!generation.edits.empty() || !is_own_size) {
            record["edit"] =
                generation.edits.empty() ? Json(nullptr) : json_of(generation.edits[index]);
            record["format_version"] = is_own_size ? 2 : 3;
            record["variation"] = nullptr;
        }
        if (!is_own_size) {
            record["size"] = {generation.size.width, generation.size.height};
        }
        result.push_back(fields_of(record, generation.base_table.size()));
    }
    return result;
}

} // namespace minit2i
