// Samplers: llama.cpp's own filters in the order of its common sampler, up to the choice, which is ours, so that it
// needs no generator with hidden state. XTC and mirostat draw from generators of their own in llama.cpp; they are
// written anew here, by the formulas of llama_sampler_xtc and llama_sampler_mirostat(_v2) in llama-sampler.cpp.
#include "shim_guard.h"

#include "llama.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

using llamapen::guarded;

namespace {

class Chain {
public:
    void add(llama_sampler * filter) {
        if (filter == nullptr) throw std::bad_alloc();
        llama_sampler_chain_add(chain.get(), filter);
    }
    void apply(llama_token_data_array & candidates) const { llama_sampler_apply(chain.get(), &candidates); }
    void accept(llama_token token) const { llama_sampler_accept(chain.get(), token); }
    bool is_empty() const { return llama_sampler_chain_n(chain.get()) == 0; }

private:
    struct Free {
        void operator()(llama_sampler * sampler) const { llama_sampler_free(sampler); }
    };
    std::unique_ptr<llama_sampler, Free> chain{ llama_sampler_chain_init(llama_sampler_chain_default_params()) };
};

// Likeliest first, with probabilities. They are kept in float, as llama.cpp has them: its thresholds are compared with
// these.
void softmax(llama_token_data_array & a) {
    if (!a.sorted) {
        std::sort(a.data, a.data + a.size, [](const auto & x, const auto & y) { return x.logit > y.logit; });
        a.sorted = true;
    }
    float sum = 0.0f;
    for (size_t i = 0; i < a.size; i++) {
        a.data[i].p = std::exp(a.data[i].logit - a.data[0].logit);
        sum += a.data[i].p;
    }
    for (size_t i = 0; i < a.size; i++) {
        a.data[i].p /= sum;
    }
}

}  // namespace

struct lp_sampler {
    lp_sampling params;
    int32_t n_vocab;
    // What changes logits, then what drops candidates, then the temperature.
    Chain logits, filters, temperature;
    std::vector<llama_token_data> candidates;
    bool greedy, remembers;
    // Mirostat's bound on the surprise, in bits: a function of the logits and choices so far.
    float mu;

    lp_sampler(const lp_model * model, const lp_sampling & s)
        : params(s), n_vocab(lp_model_n_vocab(model)), candidates(n_vocab), greedy(s.temperature <= 0.0f),
          remembers(false), mu(2.0f * s.mirostat_tau) {}

    void drop_impossible(llama_token_data_array & a) const;
    void xtc(llama_token_data_array & a, double uniform) const;
    void mirostat(llama_token_data_array & a) const;
};

// Takes out what can never be chosen, unless that is everything: with a probability of 0, typical_p's entropy is no
// number. It looks at probabilities before the temperature, so what is 0 in float there is nothing to it.
void lp_sampler::drop_impossible(llama_token_data_array & a) const {
    float best = -INFINITY;
    for (size_t i = 0; i < a.size; i++) {
        best = std::max(best, a.data[i].logit);
    }
    const float least = params.typical_p < 1.0f ? best - 80.0f : -INFINITY;
    llama_token_data * end = std::remove_if(a.data, a.data + a.size, [&](const llama_token_data & candidate) {
        return !(candidate.logit >= least) || candidate.logit == -INFINITY;
    });
    if (end != a.data) {
        a.size = end - a.data;
    }
}

// Exclude top choices: with some probability, drops all but the least likely of those that reach the threshold.
void lp_sampler::xtc(llama_token_data_array & a, double uniform) const {
    if (params.xtc_threshold > 0.5f || a.size < 2 || uniform >= params.xtc_probability) {
        return;
    }
    softmax(a);
    size_t last = 0;
    while (last + 1 < a.size && a.data[last + 1].p >= params.xtc_threshold) {
        last++;
    }
    if (a.size - last >= params.min_keep) {
        a.data += last;
        a.size -= last;
    }
}

// Mirostat (https://arxiv.org/abs/2007.14966): drops what is more surprising than mu.
void lp_sampler::mirostat(llama_token_data_array & a) const {
    softmax(a);
    if (params.mirostat == 2) {
        size_t n = 0;
        while (n < a.size && !(-std::log2(a.data[n].p) > mu)) n++;
        a.size = std::max<size_t>(n, 1);
    } else {
        // Zipf's exponent, estimated from the likeliest 100.
        float sum_ti_bi = 0.0f, sum_ti_sq = 0.0f;
        for (size_t i = 0; i < 99 && i + 1 < a.size && a.data[i + 1].p > 0.0f; i++) {
            const float t = std::log(static_cast<float>(i + 2) / static_cast<float>(i + 1));
            sum_ti_bi += t * std::log(a.data[i].p / a.data[i + 1].p);
            sum_ti_sq += t * t;
        }
        const float s_hat = sum_ti_bi / sum_ti_sq, epsilon = s_hat - 1.0f;
        const float k = std::pow(epsilon * std::pow(2.0f, mu) / (1.0f - std::pow(static_cast<float>(n_vocab), -epsilon)), 1.0f / s_hat);
        // No number: one candidate, or exponents that lead nowhere; then nothing is dropped.
        if (k < static_cast<float>(a.size)) {
            a.size = std::max<size_t>(static_cast<size_t>(k), 1);
        }
    }
    softmax(a);
}

lp_dry * lp_dry_new(const lp_model * model, const lp_sampling * s, const char * const * breakers, size_t n_breakers,
                    lp_error * error) {
    return guarded(error, static_cast<lp_dry *>(nullptr), [&] {
        const llama_vocab * vocab = llama_model_get_vocab(reinterpret_cast<const llama_model *>(model));
        return reinterpret_cast<lp_dry *>(llama_sampler_init_dry(vocab, s->dry_multiplier, s->dry_base, s->dry_allowed_length,
                                                                 s->dry_penalty_last_n, const_cast<const char **>(breakers), n_breakers));
    });
}

void lp_dry_free(lp_dry * dry) {
    guarded(nullptr, 0, [&] { llama_sampler_free(reinterpret_cast<llama_sampler *>(dry)); return 0; });
}

lp_sampler * lp_sampler_new(const lp_model * model, const lp_sampling * s, const lp_logit_bias * biases,
                            size_t n_biases, const lp_dry * dry, lp_error * error) {
    return guarded(error, static_cast<lp_sampler *>(nullptr), [&]() -> lp_sampler * {
        auto sampler = std::make_unique<lp_sampler>(model, *s);
        const llama_vocab * vocab = llama_model_get_vocab(reinterpret_cast<const llama_model *>(model));
        const int32_t n_vocab = sampler->n_vocab;

        std::vector<llama_logit_bias> merged;
        for (size_t i = 0; i < n_biases; i++) {
            merged.push_back({ biases[i].token, biases[i].bias });
        }
        int32_t n_suppressed = 0;
        const llama_token * suppressed = llama_vocab_get_suppress_tokens(vocab, &n_suppressed);
        for (int32_t i = 0; i < n_suppressed; i++) {
            merged.push_back({ suppressed[i], -INFINITY });
        }
        if (!merged.empty()) {
            sampler->logits.add(llama_sampler_init_logit_bias(n_vocab, static_cast<int32_t>(merged.size()), merged.data()));
        }
        if (s->mirostat == 0) {
            if (s->penalty_last_n > 0 && (s->penalty_repeat != 1.0f || s->penalty_frequency != 0.0f || s->penalty_presence != 0.0f)) {
                sampler->remembers = true;
                sampler->logits.add(llama_sampler_init_penalties(n_vocab, s->penalty_last_n, s->penalty_repeat,
                                                                 s->penalty_frequency, s->penalty_presence));
            }
            if (dry != nullptr) {
                sampler->remembers = true;
                sampler->logits.add(llama_sampler_clone(reinterpret_cast<const llama_sampler *>(dry)));
            }
            if (s->top_n_sigma > 0.0f) sampler->logits.add(llama_sampler_init_top_n_sigma(s->top_n_sigma));
            const size_t min_keep = std::max<size_t>(s->min_keep, 1);
            if (s->top_k > 0) sampler->filters.add(llama_sampler_init_top_k(s->top_k));
            if (s->typical_p < 1.0f) sampler->filters.add(llama_sampler_init_typical(s->typical_p, min_keep));
            if (s->top_p < 1.0f) sampler->filters.add(llama_sampler_init_top_p(s->top_p, min_keep));
            if (s->min_p > 0.0f) sampler->filters.add(llama_sampler_init_min_p(s->min_p, min_keep));
        }
        const float range = s->mirostat == 0 ? s->dynatemp_range : 0.0f;
        sampler->temperature.add(llama_sampler_init_temp_ext(s->temperature, range, s->dynatemp_exponent));
        return sampler.release();
    });
}

void lp_sampler_free(lp_sampler * sampler) {
    guarded(nullptr, 0, [&] { delete sampler; return 0; });
}

void lp_fault_sampler(lp_sampler * sampler) {
    static llama_sampler_i filter = [] {
        llama_sampler_i calls = {};
        calls.name = [](const llama_sampler *) { return "injected faults"; };
        calls.apply = [](llama_sampler *, llama_token_data_array *) {
            if (lp_pen_injector != nullptr) lp_pen_injector(LP_IN_SAMPLER);
        };
        return calls;
    }();
    guarded(nullptr, 0, [&] { sampler->logits.add(llama_sampler_init(&filter, nullptr)); return 0; });
}

LP_Status lp_sampler_accept(lp_sampler * sampler, int32_t token, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        if (sampler->remembers) {
            sampler->logits.accept(token);
        }
        return LP_OK;
    });
}

int32_t lp_sampler_pick(lp_sampler * sampler, const float * logits, double choice, double xtc, lp_error * error) {
    return guarded(error, static_cast<int32_t>(-1), [&]() -> int32_t {
        lp_sampler & s = *sampler;
        const size_t n_vocab = s.candidates.size();
        if (s.greedy && s.logits.is_empty()) {
            // The first of equals, as llama.cpp's greedy sampler takes it.
            return static_cast<int32_t>(std::max_element(logits, logits + n_vocab) - logits);
        }
        for (size_t i = 0; i < n_vocab; i++) {
            s.candidates[i] = { static_cast<llama_token>(i), logits[i], 0.0f };
        }
        llama_token_data_array a = { s.candidates.data(), n_vocab, -1, false };
        s.logits.apply(a);
        if (!s.greedy) {
            s.drop_impossible(a);
            if (s.params.mirostat == 0) {
                s.filters.apply(a);
                s.xtc(a, xtc);
                s.temperature.apply(a);
            } else {
                s.temperature.apply(a);
                s.mirostat(a);
            }
        }
        if (a.size == 0) {
            throw std::runtime_error("no candidate token is left after sampling");
        }
        const llama_token_data * best = a.data;
        for (size_t i = 1; i < a.size; i++) {
            if (a.data[i].logit > best->logit) best = &a.data[i];
        }
        if (s.greedy) {
            return best->id;
        }
        // Softmax in double, then the inverse of the cumulative distribution at `choice`.
        double sum = 0.0;
        for (size_t i = 0; i < a.size; i++) {
            sum += std::exp(static_cast<double>(a.data[i].logit) - best->logit);
        }
        const llama_token_data * picked = best;  // rounding may leave nothing: only for a choice next to 1
        double left = choice * sum;
        for (size_t i = 0; i < a.size; i++) {
            left -= std::exp(static_cast<double>(a.data[i].logit) - best->logit);
            if (left < 0.0) {
                picked = &a.data[i];
                break;
            }
        }
        if (s.params.mirostat != 0) {
            s.mu -= s.params.mirostat_eta * (-std::log2(picked->p) - s.params.mirostat_tau);
        }
        return picked->id;
    });
}
