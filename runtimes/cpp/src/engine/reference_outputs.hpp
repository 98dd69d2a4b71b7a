// Samples of the graphs' outputs for fixed inputs, which bundles hold to compare engines with: a
// network that overflows may give finite values of about the right size, but another image.
// As in minit2i_deploy/evaluation/reference_outputs.py, which writes them.
#pragma once

#include "bundle/bundle.hpp"
#include "engine/session.hpp"

#include <string>
#include <vector>

namespace minit2i {

// Whether graphs of a precision overflow or saturate where float32 does not.
bool may_overflow(const std::string &precision);

// Nine common tokens and the end.
std::vector<std::int64_t> reference_ids();

// The adapter's inputs: context float32 [1, length, width], its mask, and a student's conditions.
struct AdapterInputs {
    Tensor context;
    std::vector<std::int64_t> mask;
    std::vector<float> conditions;
};
AdapterInputs reference_adapter_inputs(const Bundle &bundle);

// float32 [1, 3, H, W]: the state of the step whose estimate is compared.
Tensor reference_state(const Bundle &bundle);

// float32 [1, patches, values] of a state of one image.
Tensor patches_of(const Bundle &bundle, const std::vector<float> &state);

// Throws a runtime failure if an output float32 [1, positions, width] is another one than the
// bundle's; a bundle without samples of the graph passes.
void require_reference_output(const Bundle &bundle, const std::string &graph, const Tensor &output);

} // namespace minit2i
