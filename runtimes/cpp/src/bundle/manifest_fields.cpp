#include "bundle/manifest_fields.hpp"

#include <algorithm>

namespace minit2i {
namespace {

void expect_one_of(const std::string &where, const std::string &value,
                   std::initializer_list<const char *> choices) {
    std::string names;
    for (const char *choice : choices) {
        if (value == choice) {
            return;
        }
        names += (names.empty() ? "" : ", ") + std::string(choice);
    }
    throw JsonError(where + " is " + quote(value) + ", but one of " + names + " is needed");
}

std::string expect_digest(const Json &value, const std::string &where) {
    std::string text = expect_text(value, where);
    if (!is_sha256(text)) {
        throw JsonError(where + " is " + quote(text) + ", but 64 hexadecimal digits are needed");
    }
    return text;
}

std::int64_t expect_positive(const Json &object, const char *name, const std::string &where) {
    const std::int64_t value = expect_integer(object.at(name), where + "." + name);
    // No size of a network comes near this; products of two then stay inside 64 bits.
    if (value <= 0 || value > INT32_MAX) {
        throw JsonError(where + "." + name + " is " + std::to_string(value) +
                        ", but a positive number is needed");
    }
    return value;
}

void check_student(const Json &value) {
    const std::string where = "model.student";
    expect_fields(
        value, where,
        {"num_context_tokens", "num_cfg_tokens", "num_interval_tokens", "num_time_tokens"});
    for (const auto &item : value.items()) {
        expect_integer(item.value(), where + "." + item.key());
    }
}

void check_model_shape(const Json &value, const std::string &where) {
    const std::int64_t hidden = expect_positive(value, "hidden_size", where);
    const std::int64_t heads = expect_positive(value, "num_heads", where);
    const std::int64_t head_dim = expect_positive(value, "head_dim", where);
    if (hidden != heads * head_dim) {
        throw JsonError(where + ": hidden_size is not num_heads x head_dim");
    }
    if (head_dim % 4 != 0 || hidden % 4 != 0) {
        throw JsonError(where + ": head_dim and hidden_size must be multiples of 4");
    }
    for (const char *name : {"image_size", "image_width"}) {
        if (value.contains(name) &&
            expect_positive(value, name, where) % expect_positive(value, "patch_size", where) !=
                0) {
            throw JsonError(where + ": " + name + " is not a multiple of patch_size");
        }
    }
    for (const char *name : {"depth_double", "txt_preamble_depth", "pca_channels"}) {
        expect_positive(value, name, where);
    }
    if (expect_number(value.at("mlp_ratio"), where + ".mlp_ratio") <= 0.0) {
        throw JsonError(where + ".mlp_ratio must be positive");
    }
}

// What runs the graphs needs no more of it: the exported step has the loop inside.
void check_loop(const Json &value, const Json &depth_double) {
    const std::string where = "model.loop";
    expect_fields(value, where,
                  {"pre", "core", "post", "num_loops", "num_copies", "use_xsa", "use_attn_gate"});
    for (const char *name : {"pre", "core", "post", "num_loops", "num_copies"}) {
        expect_positive(value, name, where);
    }
    for (const char *name : {"use_xsa", "use_attn_gate"}) {
        if (!value.at(name).is_boolean()) {
            throw JsonError(where + "." + name + " must be true or false");
        }
    }
    const std::int64_t core =
        value.at("core").get<std::int64_t>() * value.at("num_copies").get<std::int64_t>();
    if (value.at("pre").get<std::int64_t>() + core + value.at("post").get<std::int64_t>() !=
        depth_double) {
        throw JsonError(where + " has another number of blocks than model.depth_double");
    }
}

ModelInfo decode_model(const Json &value) {
    const std::string where = "manifest.model";
    Json base = expect_object(value, where);
    const bool is_student = base.contains("student") && !base.at("student").is_null();
    if (is_student) {
        check_student(base.at("student"));
    }
    const Json loop = base.contains("loop") ? base.at("loop") : Json();
    base.erase("student");
    base.erase("loop");
    if (!base.contains("image_width")) {
        base["image_width"] = member(base, "image_size");
    }
    expect_fields(base, where,
                  {"image_size", "image_width", "patch_size", "hidden_size", "num_heads",
                   "head_dim", "depth_double", "in_channels", "txt_preamble_depth", "mlp_ratio",
                   "pca_channels", "txt_input_size", "prompt_length"});
    check_model_shape(base, where);
    if (!loop.is_null()) {
        check_loop(loop, base.at("depth_double"));
    }
    ModelInfo model;
    model.size = {expect_positive(base, "image_width", where),
                  expect_positive(base, "image_size", where)};
    model.patch_size = expect_positive(base, "patch_size", where);
    model.in_channels = expect_positive(base, "in_channels", where);
    model.txt_input_size = expect_positive(base, "txt_input_size", where);
    model.prompt_length = expect_positive(base, "prompt_length", where);
    model.is_student = is_student;
    return model;
}

Axis decode_axis(const Json &value, const std::string &tensor) {
    Axis axis;
    if (value.is_string()) {
        axis.name = value.get<std::string>();
    } else if (value.is_number_integer()) {
        axis.size = value.get<std::int64_t>();
    }
    if (axis.name.empty() && axis.size <= 0) {
        throw JsonError(tensor + ".shape needs positive sizes or names");
    }
    return axis;
}

std::map<std::string, std::vector<Axis>> decode_tensors(const Json &value,
                                                        const std::string &where) {
    std::map<std::string, std::vector<Axis>> shapes;
    for (const auto &item : expect_object(value, where).items()) {
        const std::string tensor = where + "." + item.key();
        expect_fields(item.value(), tensor, {"dtype", "shape"});
        expect_one_of(
            tensor + ".dtype", expect_text(item.value().at("dtype"), tensor + ".dtype"),
            {"float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"});
        std::vector<Axis> &shape = shapes[item.key()];
        for (const Json &axis : expect_list(item.value().at("shape"), tensor + ".shape")) {
            shape.push_back(decode_axis(axis, tensor));
        }
    }
    return shapes;
}

GraphInfo decode_graph(const Json &value, const std::string &where) {
    expect_fields(value, where, {"path", "precision", "opset", "inputs", "outputs"});
    expect_one_of(where + ".precision", expect_text(value.at("precision"), where + ".precision"),
                  {"fp32", "bf16", "fp16", "int8", "fp8", "mxfp8", "fp4"});
    if (expect_integer(value.at("opset"), where + ".opset") < 1) {
        throw JsonError(where + ".opset must be at least 1");
    }
    decode_tensors(value.at("outputs"), where + ".outputs");
    return {expect_text(value.at("path"), where + ".path"), value.at("precision"),
            decode_tensors(value.at("inputs"), where + ".inputs")};
}

// What runs the graphs needs no more of it: their inputs and outputs are those without pads.
void check_padding(const Json &value, const Json &model) {
    const std::string where = "manifest.padded_head_dim";
    const std::int64_t padded = expect_integer(value, where);
    if (padded % 2 != 0 || padded <= expect_integer(model.at("head_dim"), "model.head_dim")) {
        throw JsonError(where + " is " + std::to_string(padded) +
                        ", but an even width above model.head_dim is needed");
    }
}

// The least and the most pixels of a side, around the image size.
std::pair<std::int64_t, std::int64_t> decode_side_bounds(const Json &value,
                                                         const ModelInfo &model) {
    const std::string where = "manifest.side_bounds";
    if (expect_list(value, where).size() != 2) {
        throw JsonError(where + " needs the least and the most pixels of a side");
    }
    for (const Json &side : value) {
        const std::int64_t pixels = expect_integer(side, where);
        if (pixels < 1 || pixels > INT32_MAX || pixels % model.patch_size != 0) {
            throw JsonError(where + " has " + std::to_string(pixels) +
                            ", but positive multiples of the patch of " +
                            std::to_string(model.patch_size) + " pixels are needed");
        }
    }
    const auto least = value[0].get<std::int64_t>();
    const auto most = value[1].get<std::int64_t>();
    const auto [smaller, larger] = std::minmax(model.size.width, model.size.height);
    if (smaller < least || larger > most) {
        throw JsonError(where + " " + std::to_string(least) + " to " + std::to_string(most) +
                        " exclude the image size of " + model.size.text());
    }
    return {least, most};
}

// step: the graph that takes the rows before the switch.
SwitchGraph decode_switch(const Json &value, const Json &step) {
    const std::string where = "manifest.late";
    expect_fields(value, where, {"t", "graph"});
    SwitchGraph after{expect_number(value.at("t"), where + ".t"),
                      decode_graph(value.at("graph"), where + ".graph")};
    if (!(after.t > 0.0 && after.t < 1.0)) {
        throw JsonError(where + ".t must be between 0 and 1");
    }
    const Json &graph = value.at("graph");
    if (graph.at("inputs") != step.at("inputs") || graph.at("outputs") != step.at("outputs") ||
        graph.at("path") == step.at("path")) {
        throw JsonError(where +
                        ".graph needs graphs.transformer's inputs and outputs, and another path");
    }
    return after;
}

FileInfo decode_file(const Json &value, const std::string &where) {
    expect_fields(value, where, {"sha256", "bytes"});
    FileInfo file{expect_digest(value.at("sha256"), where + ".sha256"),
                  expect_integer(value.at("bytes"), where + ".bytes")};
    if (file.bytes < 0) {
        throw JsonError(where + ".bytes must be a size");
    }
    return file;
}

Preset decode_preset(const Json &value, const std::string &where) {
    expect_fields(value, where, {"table", "guidance"});
    return {expect_text(value.at("table"), where + ".table"),
            expect_number(value.at("guidance"), where + ".guidance")};
}

void check_flavour(const Json &value) {
    const std::string where = "manifest.flavour";
    expect_fields(value, where, {"name", "a_min", "guidance", "steps", "rounding"});
    expect_text(value.at("name"), where + ".name");
    expect_number(value.at("guidance"), where + ".guidance");
    expect_one_of(where + ".rounding", expect_text(value.at("rounding"), where + ".rounding"),
                  {"truncate"});
    const double a_min = expect_number(value.at("a_min"), where + ".a_min");
    if (a_min <= 0.0 || a_min > 1.0 || expect_integer(value.at("steps"), where + ".steps") < 1) {
        throw JsonError(where + ": 0 < a_min <= 1 and at least one step are needed");
    }
}

double decode_noise(const Json &value) {
    const std::string where = "manifest.noise";
    expect_fields(value, where, {"generator", "scale"});
    expect_one_of(where + ".generator", expect_text(value.at("generator"), where + ".generator"),
                  {kNoiseGenerator});
    const double scale = expect_number(value.at("scale"), where + ".scale");
    if (scale <= 0.0) {
        throw JsonError(where + ".scale must be positive");
    }
    return scale;
}

std::string decode_provenance(const Json &value) {
    const std::string where = "manifest.provenance";
    expect_fields(value, where, {"checkpoint_sha256", "checkpoint_form", "lora_sha256", "tools"});
    expect_text(value.at("checkpoint_form"), where + ".checkpoint_form");
    if (!value.at("lora_sha256").is_null()) {
        expect_digest(value.at("lora_sha256"), where + ".lora_sha256");
    }
    for (const auto &item : expect_object(value.at("tools"), where + ".tools").items()) {
        expect_text(item.value(), where + ".tools." + item.key());
    }
    return expect_digest(value.at("checkpoint_sha256"), where + ".checkpoint_sha256");
}

std::string decode_quantized_graph(const Json &value, const std::string &where) {
    expect_fields(value, where, {"scheme", "layers", "excluded"});
    expect_positive(value, "layers", where);
    for (const Json &name : expect_list(value.at("excluded"), where + ".excluded")) {
        expect_text(name, where + ".excluded");
    }
    return expect_text(value.at("scheme"), where + ".scheme");
}

// Gives the scheme of each quantized graph.
std::map<std::string, std::string> decode_quantization(const Json &value) {
    const std::string where = "manifest.quantization";
    expect_fields(
        value, where,
        {"scheme", "base_precision", "source_digest", "calibration_sha256", "smoothing", "graphs"});
    expect_text(value.at("scheme"), where + ".scheme");
    expect_one_of(where + ".base_precision",
                  expect_text(value.at("base_precision"), where + ".base_precision"),
                  {"fp32", "bf16", "fp16"});
    expect_digest(value.at("source_digest"), where + ".source_digest");
    if (!value.at("calibration_sha256").is_null()) {
        expect_digest(value.at("calibration_sha256"), where + ".calibration_sha256");
    }
    for (const auto &item : expect_object(value.at("smoothing"), where + ".smoothing").items()) {
        const double strength = expect_number(item.value(), where + ".smoothing." + item.key());
        if (strength < 0.0 || strength > 1.0) {
            throw JsonError(where + ": a smoothing strength is outside 0..1");
        }
    }
    std::map<std::string, std::string> schemes;
    for (const auto &item : expect_object(value.at("graphs"), where + ".graphs").items()) {
        const std::string graph = where + ".graphs." + item.key();
        expect_one_of(graph, item.key(), {kTextEncoder, kTextAdapter, kStepGraph});
        schemes[item.key()] = decode_quantized_graph(item.value(), graph);
    }
    return schemes;
}

void check_checks(const Json &value) {
    std::size_t index = 0;
    for (const Json &check : expect_list(value, "manifest.checks")) {
        const std::string where = "manifest.checks[" + std::to_string(index++) + "]";
        expect_fields(check, where, {"name", "measured", "bound", "unit", "where"});
        for (const char *name : {"name", "unit", "where"}) {
            expect_text(check.at(name), where + "." + name);
        }
        expect_number(check.at("measured"), where + ".measured");
        expect_number(check.at("bound"), where + ".bound");
    }
}

std::string decode_tokenizer(const Json &value, const ModelInfo &model) {
    const std::string where = "manifest.tokenizer";
    expect_fields(value, where, {"path", "prompt_length"});
    const std::int64_t length = expect_integer(value.at("prompt_length"), where + ".prompt_length");
    if (length != model.prompt_length) {
        throw JsonError("tokenizer.prompt_length " + std::to_string(length) +
                        " is not the model's " + std::to_string(model.prompt_length));
    }
    return expect_text(value.at("path"), where + ".path");
}

template <typename T, typename Decode> std::map<std::string, T>
decode_entries(const Json &value, const std::string &where, Decode decode) {
    std::map<std::string, T> result;
    for (const auto &item : expect_object(value, where).items()) {
        result.emplace(item.key(), decode(item.value(), where + "." + item.key()));
    }
    return result;
}

} // namespace

bool is_sha256(const std::string &text) {
    return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
           });
}

Manifest decode_manifest(const Json &complete) {
    Json value = expect_object(complete, "manifest");
    Manifest manifest;
    // Only the manifest of a quantized bundle has this field.
    if (value.contains("quantization")) {
        manifest.schemes = decode_quantization(value.at("quantization"));
        value.erase("quantization");
    }
    // This one is there if another graph takes the rows from some time on.
    std::optional<Json> late;
    if (value.contains("late")) {
        late = value.at("late");
        value.erase("late");
    }
    // This one if heads are padded with zeros.
    std::optional<Json> padded;
    if (value.contains("padded_head_dim")) {
        padded = value.at("padded_head_dim");
        value.erase("padded_head_dim");
    }
    // This one if the graphs hold operators that only one provider has.
    if (value.contains("only_for")) {
        manifest.only_for = expect_text(value.at("only_for"), "manifest.only_for");
        expect_one_of("manifest.only_for", manifest.only_for, {"cpu", "cuda"});
        value.erase("only_for");
    }
    // This one if the weights were trained for images of another size; nothing computes with it.
    if (value.contains("trained_size")) {
        const Json &sides = expect_list(value.at("trained_size"), "manifest.trained_size");
        const auto is_side = [](const Json &side) { return side.is_number_integer() && side > 0; };
        if (sides.size() != 2 || !std::all_of(sides.begin(), sides.end(), is_side)) {
            throw JsonError("manifest.trained_size needs two positive integers");
        }
        value.erase("trained_size");
    }
    // This one if one branch gives the guided estimate.
    if (value.contains("one_pass_guidance")) {
        const std::string where = "manifest.one_pass_guidance";
        manifest.one_pass_guidance = expect_number(value.at("one_pass_guidance"), where);
        if (!(manifest.one_pass_guidance > 1.0)) {
            throw JsonError(where + " must be above 1");
        }
        value.erase("one_pass_guidance");
    }
    // This one if height and width of the images are free.
    std::optional<Json> sides;
    if (value.contains("side_bounds")) {
        sides = value.at("side_bounds");
        value.erase("side_bounds");
    }
    // This one if several adapters were merged, or one at a strength of its own.
    if (value.contains("adapters")) {
        for (const Json &item : expect_list(value.at("adapters"), "manifest.adapters")) {
            expect_fields(item, "manifest.adapters", {"sha256", "strength"});
            expect_digest(item.at("sha256"), "manifest.adapters.sha256");
            expect_number(item.at("strength"), "manifest.adapters.strength");
        }
        value.erase("adapters");
    }
    // This one if a merged adapter changes the text encoder; nothing computes with it.
    if (value.contains("text_encoder_lora_sha256")) {
        expect_digest(value.at("text_encoder_lora_sha256"), "manifest.text_encoder_lora_sha256");
        value.erase("text_encoder_lora_sha256");
    }
    expect_fields(value, "manifest",
                  {"kind", "format_version", "manifest_sha256", "model", "variant", "graphs",
                   "tokenizer", "files", "tables", "presets", "default_preset", "flavour", "noise",
                   "provenance", "checks"});
    manifest.model = decode_model(value.at("model"));
    if (padded) {
        check_padding(*padded, value.at("model"));
    }
    if (sides) {
        manifest.side_bounds = decode_side_bounds(*sides, manifest.model);
    }
    if (!value.at("variant").is_null()) {
        expect_text(value.at("variant"), "manifest.variant");
    }
    manifest.graphs =
        decode_entries<GraphInfo>(value.at("graphs"), "manifest.graphs", decode_graph);
    if (late) {
        manifest.after_switch = decode_switch(*late, member(value.at("graphs"), kStepGraph));
    }
    manifest.files = decode_entries<FileInfo>(value.at("files"), "manifest.files", decode_file);
    manifest.tables =
        decode_entries<std::string>(value.at("tables"), "manifest.tables", expect_text);
    manifest.presets =
        decode_entries<Preset>(value.at("presets"), "manifest.presets", decode_preset);
    manifest.default_preset = expect_text(value.at("default_preset"), "manifest.default_preset");
    manifest.tokenizer_path = decode_tokenizer(value.at("tokenizer"), manifest.model);
    check_flavour(value.at("flavour"));
    manifest.noise_scale = decode_noise(value.at("noise"));
    manifest.checkpoint_sha256 = decode_provenance(value.at("provenance"));
    check_checks(value.at("checks"));
    return manifest;
}

} // namespace minit2i
