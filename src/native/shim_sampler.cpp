// Samplers: llama.cpp's own chain up to the choice, which is ours, so that it needs no generator with hidden state.
#include "shim_guard.h"

#include "llama.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <vector>

using llamapen::guarded;

struct lp_sampler {
    struct Free {
        void operator()(llama_sampler * chain) const { llama_sampler_free(chain); }
    };
    std::unique_ptr<llama_sampler, Free> chain;
    std::vector<llama_token_data> candidates;
    bool greedy = false;
    bool penalties = false;
};

lp_sampler * lp_sampler_new(const lp_model * model, const lp_sampling * s, lp_error * error) {
    return guarded(error, static_cast<lp_sampler *>(nullptr), [&]() -> lp_sampler * {
        auto sampler = std::make_unique<lp_sampler>();
        const int32_t n_vocab = lp_model_n_vocab(model);
        sampler->candidates.resize(n_vocab);
        sampler->greedy = s->temperature <= 0.0f;
        sampler->penalties = s->penalty_last_n != 0 &&
                             (s->penalty_repeat != 1.0f || s->penalty_frequency != 0.0f || s->penalty_presence != 0.0f);
        sampler->chain.reset(llama_sampler_chain_init(llama_sampler_chain_default_params()));
        llama_sampler * chain = sampler->chain.get();
        // llama.cpp's standard order.
        if (sampler->penalties) {
            llama_sampler_chain_add(chain, llama_sampler_init_penalties(n_vocab, s->penalty_last_n, s->penalty_repeat,
                                                                        s->penalty_frequency, s->penalty_presence));
        }
        if (!sampler->greedy) {
            if (s->top_k > 0) llama_sampler_chain_add(chain, llama_sampler_init_top_k(s->top_k));
            if (s->top_p < 1.0f) llama_sampler_chain_add(chain, llama_sampler_init_top_p(s->top_p, 1));
            if (s->min_p > 0.0f) llama_sampler_chain_add(chain, llama_sampler_init_min_p(s->min_p, 1));
            llama_sampler_chain_add(chain, llama_sampler_init_temp(s->temperature));
        }
        return sampler.release();
    });
}

void lp_sampler_free(lp_sampler * sampler) {
    guarded(nullptr, 0, [&] { delete sampler; return 0; });
}

LP_Status lp_sampler_accept(lp_sampler * sampler, int32_t token, lp_error * error) {
    return guarded(error, LP_EXCEPTION, [&] {
        if (sampler->penalties) {
            llama_sampler_accept(sampler->chain.get(), token);
        }
        return LP_OK;
    });
}

int32_t lp_sampler_pick(lp_sampler * sampler, const float * logits, double uniform, lp_error * error) {
    return guarded(error, static_cast<int32_t>(-1), [&]() -> int32_t {
        const size_t n_vocab = sampler->candidates.size();
        if (sampler->greedy && !sampler->penalties) {
            // The first of equals, as llama.cpp's greedy sampler takes it.
            return static_cast<int32_t>(std::max_element(logits, logits + n_vocab) - logits);
        }
        for (size_t i = 0; i < n_vocab; i++) {
            sampler->candidates[i] = { static_cast<llama_token>(i), logits[i], 0.0f };
        }
        llama_token_data_array array = { sampler->candidates.data(), n_vocab, -1, false };
        llama_sampler_apply(sampler->chain.get(), &array);
        if (array.size == 0) {
            throw std::runtime_error("no candidate token is left after sampling");
        }
        const llama_token_data * best = array.data;
        for (size_t i = 1; i < array.size; i++) {
            if (array.data[i].logit > best->logit) best = &array.data[i];
        }
        if (sampler->greedy) {
            return best->id;
        }
        // Softmax in double, then the inverse of the cumulative distribution at `uniform`.
        double sum = 0.0;
        for (size_t i = 0; i < array.size; i++) {
            sum += std::exp(static_cast<double>(array.data[i].logit) - best->logit);
        }
        double left = uniform * sum;
        for (size_t i = 0; i < array.size; i++) {
            left -= std::exp(static_cast<double>(array.data[i].logit) - best->logit);
            if (left < 0.0) return array.data[i].id;
        }
        return best->id;  // rounding left nothing: only for uniform next to 1
    });
}
