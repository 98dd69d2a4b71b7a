// Whether 8-bit products are right on this processor: two products of known answer.
//
// x86 processors without VNNI multiply 8-bit numbers in pairs that are added in 16 bits. Two
// products of 255 and 127 are 64770, and 32767 is the most that fits: the sum saturates, without an
// error. Pairs of weights that add up to 128 at most cannot saturate, whatever they are multiplied
// with; a manifest calls such a graph "pair-safe".
#pragma once

#include "bundle/bundle.hpp"
#include "engine/provider.hpp"

#include <functional>
#include <string>

namespace minit2i {

// Forms of 8-bit products in bundles: inputs with a scale of each run, or with a fixed one. True:
// the sum of 64 products is wrong.
struct SaturatingForms {
    bool is_dynamic_wrong = false;
    bool is_static_wrong = false;
};

// What a provider on the CPU does here, its plugin loaded; tried once a process.
SaturatingForms saturating_forms(const ProviderChoice &choice);

// The warning for a graph whose products saturate in these forms, or an empty text. Graphs that
// cannot saturate do not ask for the forms.
std::string saturation_warning(const Bundle &bundle, const std::string &graph,
                               const std::string &provider,
                               const std::function<SaturatingForms()> &forms);

} // namespace minit2i
