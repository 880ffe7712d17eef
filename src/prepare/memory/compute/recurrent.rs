//! State space layers (`mamba-base.cpp`), as shapes.

use super::blocks::Builder;
use super::graph::Id;
use crate::model::SsmInfo;

/// The graph's inputs that say which states belong to the batch.
#[derive(Clone, Copy)]
pub(super) struct States {
    /// One index per state: those of the batch first.
    pub copy: Id,
    /// Number of states, of which the batch has as many as it has sequences.
    pub count: u64,
}

impl Builder<'_> {
    /// The states of the batch, gathered from the cache, and the others moved along.
    fn gather(&mut self, size: u64, states: States) -> Id {
        // Clearing one state writes into the cache.
        let zero = self.graph.store(&[]);
        self.graph.expand(zero);
        let all = self.graph.result([size, states.count, 1, 1], &[states.copy]);
        let mine = self.graph.view(all, [size, self.streams, 1, 1]);
        self.graph.expand(mine);
        self.move_others(all, size, states);
        mine
    }

    fn move_others(&mut self, all: Id, size: u64, states: States) {
        let others = self.graph.view(all, [size, states.count.saturating_sub(self.streams), 1, 1]);
        let moved = self.graph.store(&[others]);
        self.graph.expand(moved);
    }

    /// Convolution over time of `input`, of the given width, with the states of the convolution before it.
    fn convolve(&mut self, layer: &str, input: Id, width: u64, ssm: SsmInfo, states: States) -> Id {
        let (before, per_stream) = (u64::from(ssm.d_conv) - 1, self.tokens / self.streams);
        let conv = self.gather(before * width, states);
        let conv = self.graph.view(conv, [before, width, self.streams, 1]);
        let transposed = self.graph.view(input, [per_stream, width, self.streams, 1]);
        let joined = self.graph.result([before + per_stream, width, self.streams, 1], &[conv, transposed]);
        let last = self.graph.view(joined, [before, width, self.streams, 1]);
        let stored = self.graph.store(&[last]);
        self.graph.expand(stored);
        let mut out = self.graph.result([width, per_stream, self.streams, 1], &[joined]);
        if self.has(&format!("{layer}.ssm_conv1d.bias")) {
            out = self.graph.in_place(&[out]);
        }
        self.graph.in_place(&[out])
    }

    /// The scan over time. It reads its states from the cache; only those of other sequences are gathered.
    fn scan(&mut self, inputs: &[Id], ssm: SsmInfo, states: States) -> Id {
        let state = u64::from(ssm.d_state) * u64::from(ssm.d_inner);
        let zero = self.graph.store(&[]);
        self.graph.expand(zero);
        let others = states.count.saturating_sub(1);
        let tail = self.graph.view(states.copy, [others, 1, 1, 1]);
        let main = self.graph.view(states.copy, [self.streams, 1, 1, 1]);
        let all = self.graph.result([state, others, 1, 1], &[tail]);
        let elements = u64::from(ssm.d_inner) * self.tokens + state * self.streams;
        let out = self.graph.result([elements, 1, 1, 1], &[inputs, &[main]].concat());
        self.graph.expand(out);
        self.move_others(all, state, states);
        let last = self.graph.view(out, [state * self.streams, 1, 1, 1]);
        let stored = self.graph.store(&[last]);
        self.graph.expand(stored);
        out
    }

    pub(super) fn mamba(&mut self, layer: &str, input: Id, ssm: SsmInfo, states: States) -> Option<Id> {
        let (inner, state, rank) = (u64::from(ssm.d_inner), u64::from(ssm.d_state), u64::from(ssm.dt_rank));
        let (tokens, streams) = (self.tokens, self.streams);
        let shape = [inner, tokens / streams, streams, 1];
        let xz = self.project(&format!("{layer}.ssm_in"), input)?;
        let (x, z) = (self.graph.view(xz, shape), self.graph.view(xz, shape));
        let x = self.convolve(layer, x, inner, ssm, states);

        let x_db = self.project_from(&format!("{layer}.ssm_x"), x)?;
        let part = |builder: &mut Self, width: u64, norm: &str| {
            let view = builder.graph.view(x_db, [width, tokens, 1, 1]);
            builder.norm(&format!("{layer}.{norm}"), view)
        };
        let dt = part(self, rank, "ssm_dt_norm");
        let b = part(self, state, "ssm_b_norm");
        let c = part(self, state, "ssm_c_norm");
        let dt = match self.has(&format!("{layer}.ssm_dt_norm.weight")) {
            true => dt,
            false => self.graph.result([rank, tokens, 1, 1], &[dt]),
        };
        let dt = self.project(&format!("{layer}.ssm_dt"), dt)?;
        let flat = self.graph.view(x, [1, inner, tokens / streams, streams]);
        let scanned = self.scan(&[flat, dt, b, c], ssm, states);
        let y = self.graph.view(scanned, shape);
        let skip = self.graph.in_place(&[x]);
        let y = self.graph.in_place(&[y, skip]);
        let z = self.graph.result(shape, &[z]);
        let y = self.graph.result(shape, &[z, y]);
        self.project_from(&format!("{layer}.ssm_out"), y)
    }

    pub(super) fn mamba2(&mut self, layer: &str, input: Id, ssm: SsmInfo, states: States) -> Option<Id> {
        let (inner, state, heads, groups) =
            (u64::from(ssm.d_inner), u64::from(ssm.d_state), u64::from(ssm.dt_rank), u64::from(ssm.n_group));
        let (tokens, streams) = (self.tokens, self.streams);
        let per_stream = tokens / streams;
        let dim = inner / heads.max(1);
        let all = self.project(&format!("{layer}.ssm_in"), input)?;
        let width = inner + 2 * groups * state;
        let z = self.graph.view(all, [dim, heads, per_stream, streams]);
        let xbc = self.graph.view(all, [width, per_stream, streams, 1]);
        let dt = self.graph.view(all, [heads, per_stream, streams, 1]);
        let xbc = self.convolve(layer, xbc, width, ssm, states);

        let x = self.graph.view(xbc, [dim, heads, per_stream, streams]);
        let b = self.graph.view(xbc, [state, groups, per_stream, streams]);
        let c = self.graph.view(xbc, [state, groups, per_stream, streams]);
        let dt = self.graph.result([heads, per_stream, streams, 1], &[dt]);
        let dt = self.graph.in_place(&[dt]);
        let scanned = self.scan(&[x, dt, b, c], ssm, states);
        let y = self.graph.view(scanned, [dim, heads, per_stream, streams]);
        let skip = self.graph.in_place(&[x]);
        let y = self.graph.in_place(&[y, skip]);
        let z = self.graph.result([dim, heads, per_stream, streams], &[z]);
        let mut y = self.graph.result([dim, heads, per_stream, streams], &[z, y]);
        if self.has(&format!("{layer}.ssm_norm.weight")) {
            y = self.graph.view(y, [inner / groups.max(1), groups, per_stream, streams]);
            y = self.norm(&format!("{layer}.ssm_norm"), y);
        }
        let y = self.graph.view(y, [inner, tokens, 1, 1]);
        self.project(&format!("{layer}.ssm_out"), y)
    }

    /// A projection of something that has the batch's tokens in its second and third dimension.
    fn project_from(&mut self, weight: &str, input: Id) -> Option<Id> {
        let [width, ..] = self.graph.shape(input);
        let flat = self.graph.view(input, [width, self.tokens, 1, 1]);
        self.project(weight, flat)
    }
}
