//! What the sequences of a context hold: kept after a request, continued by the next, copied, saved and restored.

use super::prefix::{Candidate, From, Held, choose};
use super::store::{Store, Stored};
use crate::native::{Context, NativeError, NativeStatus};
use crate::prepare::PreparedEngine;

/// Most bytes that are copied so that a request runs beside others: some 15 ms.
const MOST_MOVED: usize = 32 << 20;

pub(super) struct Cache {
    held: Vec<Held>,
    used_at: Vec<u64>,
    requests: u64,
    /// Slots keep what they computed.
    keeps: bool,
    /// Only what has the bits of a prompt that is computed from its beginning is used again.
    exact: bool,
    store: Store,
}

impl Cache {
    pub(super) fn new(engine: &PreparedEngine) -> Self {
        let slots = engine.slots() as usize;
        Self {
            held: (0..slots).map(|_| Held::with_capacity(engine.n_ctx())).collect(),
            used_at: vec![0; slots],
            requests: 0,
            keeps: engine.prefix_cache(),
            exact: engine.deterministic(),
            store: Store::new(engine.prefix_store_bytes() / u64::from(engine.workers())),
        }
    }

    /// Positions that the slots hold.
    pub(super) fn positions(&self) -> u64 {
        self.held.iter().map(|held| held.tokens.len() as u64).sum()
    }

    /// Bytes of saved states.
    pub(super) fn stored(&self) -> u64 {
        self.store.used()
    }

    /// Finds a free slot for a prompt that is decoded in pieces of `piece`, and leaves in it the longest beginning of the
    /// prompt that is known. Returns the slot and that beginning's length.
    pub(super) fn seat(
        &mut self,
        context: &mut Context,
        prompt: &[i32],
        piece: usize,
        is_free: impl Fn(usize) -> bool,
    ) -> Result<(usize, usize), NativeError> {
        let exact = self.exact.then_some(piece);
        let mut slots = Vec::with_capacity(self.held.len());
        for (i, held) in self.held.iter().enumerate() {
            let usable = held.usable(prompt, context.is_whole(i as u32)?, exact);
            slots.push(Candidate { free: is_free(i), held: held.tokens.len(), usable, used_at: self.used_at[i] });
        }
        let best = self.store.best(prompt, exact);
        let (slot, from) = choose(&slots, best.map_or(0, |(_, tokens)| tokens)).expect("called with a free slot");
        // Taken out first: saving what is lost must not push out what is restored.
        let stored = best.filter(|_| matches!(from, From::Store(_))).map(|(index, _)| self.store.take(index));
        self.save_before(context, slot, if let From::Here(kept) = from { kept } else { 0 })?;
        let mut cached = match from {
            From::Here(tokens) => tokens,
            From::Slot(source, tokens) => {
                if self.copy(context, source, slot)? {
                    tokens
                } else {
                    0
                }
            }
            From::Store(tokens) => {
                let stored = stored.expect("the choice is the store's");
                let restored = self.restore(context, slot, &stored.held, &stored.state)?;
                self.store.put(stored);
                if restored { tokens } else { 0 }
            }
        };
        if !self.cut(context, slot, cached)? {
            cached = 0;
        }
        self.requests += 1;
        self.used_at[slot] = self.requests;
        Ok((slot, cached))
    }

    /// Puts the sequence of a snapshot into a free slot; `None` if that does not succeed.
    pub(super) fn resume(
        &mut self,
        context: &mut Context,
        held: &Held,
        state: &[u8],
        is_free: impl Fn(usize) -> bool,
    ) -> Result<Option<usize>, NativeError> {
        let free = (0..self.held.len()).filter(|slot| is_free(*slot));
        let slot = free.min_by_key(|slot| (!self.held[*slot].tokens.is_empty(), self.used_at[*slot]));
        let slot = slot.expect("called with a free slot");
        self.save_before(context, slot, 0)?;
        if !self.restore(context, slot, held, state)? {
            return Ok(None);
        }
        self.requests += 1;
        self.used_at[slot] = self.requests;
        Ok(Some(slot))
    }

    /// Writes what a slot holds into `state`, for a snapshot. `None`: that does not succeed.
    pub(super) fn save(
        &self,
        context: &mut Context,
        slot: usize,
        state: &mut Vec<u8>,
    ) -> Result<Option<&Held>, NativeError> {
        Ok(without_failure(context.save(slot as u32, state))?.map(|()| &self.held[slot]))
    }

    /// Bytes of a slot's state; `None`: llama.cpp cannot say.
    pub(super) fn state_size(&self, context: &mut Context, slot: usize) -> Result<Option<usize>, NativeError> {
        without_failure(context.state_size(slot as u32))
    }

    /// Exchanges what two slots hold, so that requests run beside each other; false: not what holds so much.
    pub(super) fn exchange(&mut self, context: &mut Context, a: usize, b: usize) -> Result<bool, NativeError> {
        let mut states = [vec![], vec![]];
        let mut bytes = 0;
        for slot in [a, b].into_iter().filter(|slot| !self.held[*slot].tokens.is_empty()) {
            bytes += without_failure(context.state_size(slot as u32))?.unwrap_or(usize::MAX / 2);
        }
        if bytes > MOST_MOVED {
            return Ok(false);
        }
        for (slot, state) in [a, b].into_iter().zip(&mut states) {
            if !self.held[slot].tokens.is_empty() && without_failure(context.save(slot as u32, state))?.is_none() {
                return Ok(false);
            }
        }
        let held = [a, b].map(|slot| self.held[slot].clone());
        for (to, (held, state)) in [b, a].into_iter().zip(held.iter().zip(&states)) {
            match state.is_empty() {
                true => self.cut(context, to, 0).map(drop)?,
                false => self.restore(context, to, held, state).map(drop)?,
            }
        }
        self.used_at.swap(a, b);
        Ok(true)
    }

    /// What a slot holds.
    pub(super) fn tokens(&self, slot: usize) -> &[i32] {
        &self.held[slot].tokens
    }

    /// A token was decoded.
    pub(super) fn decoded(&mut self, slot: usize, token: i32) {
        self.held[slot].tokens.push(token);
    }

    /// A piece of a prompt was decoded.
    pub(super) fn piece_decoded(&mut self, slot: usize, tokens: &[i32], piece: usize) {
        let held = &mut self.held[slot];
        if held.in_pieces == held.tokens.len() && tokens.len() == piece {
            held.in_pieces += piece;
        }
        held.tokens.extend_from_slice(tokens);
    }

    /// Takes back what a decode that failed may have left. False: the memory cannot go back, and is empty now.
    pub(super) fn rewind(&mut self, context: &mut Context, slot: usize) -> Result<bool, NativeError> {
        let held = self.held[slot].tokens.len();
        self.cut(context, slot, held)
    }

    /// Makes room in a slot: takes out half of what is behind the first `keep` tokens, and moves the rest there. Returns how
    /// many tokens are gone; 0: the memory cannot do that.
    pub(super) fn shift(&mut self, context: &mut Context, slot: usize, keep: usize) -> Result<u32, NativeError> {
        let n = (self.held[slot].tokens.len() - keep) / 2;
        let count = |n: usize| u32::try_from(n).expect("at most n_ctx");
        if !context.shift(slot as u32, count(keep), count(n))? {
            return Ok(0);
        }
        self.held[slot].shift(keep, n);
        Ok(count(n))
    }

    /// The slot's request has ended.
    pub(super) fn released(&mut self, context: &mut Context, slot: usize) -> Result<(), NativeError> {
        // What follows a gap is the beginning of nothing.
        match if self.keeps { self.held[slot].gap } else { Some(0) } {
            Some(useful) => self.cut(context, slot, useful).map(drop),
            None => Ok(()),
        }
    }

    /// Forgets all but the first `tokens`. False: the memory cannot do that, and is empty now.
    fn cut(&mut self, context: &mut Context, slot: usize, tokens: usize) -> Result<bool, NativeError> {
        // A whole memory that has nothing more is left alone by this.
        if context.cut(slot as u32, u32::try_from(tokens).expect("at most n_ctx"))? {
            self.held[slot].cut(tokens);
            return Ok(true);
        }
        context.clear(slot as u32)?;
        self.held[slot].cut(0);
        Ok(false)
    }

    /// Saves a slot's sequence if more than `kept` of its tokens are about to be lost, and that is worth it.
    fn save_before(&mut self, context: &mut Context, slot: usize, kept: usize) -> Result<(), NativeError> {
        let held = &self.held[slot];
        if !self.store.considers(held.tokens.len() - kept) {
            return Ok(());
        }
        let whole = context.is_whole(slot as u32)?;
        let saved = context.state_size(slot as u32).and_then(|bytes| {
            let bytes = bytes + size_of_val(held.tokens.as_slice());
            let mut state = vec![];
            let wanted = self.store.wants(held, whole, bytes);
            if wanted {
                context.save(slot as u32, &mut state)?;
            }
            Ok(wanted.then_some(state))
        });
        if let Some(state) = without_failure(saved)?.flatten() {
            self.store.put(Stored { held: held.clone(), whole, state });
        }
        Ok(())
    }

    /// Copies a sequence through the host's memory: llama.cpp's own copy between sequences with KV of their own takes the
    /// whole buffer, however little is in it, and shares states, which then cannot be told apart.
    fn copy(&mut self, context: &mut Context, source: usize, slot: usize) -> Result<bool, NativeError> {
        let mut state = vec![];
        if without_failure(context.save(source as u32, &mut state))?.is_none() {
            return Ok(false);
        }
        let held = self.held[source].clone();
        self.restore(context, slot, &held, &state)
    }

    fn restore(&mut self, context: &mut Context, slot: usize, held: &Held, state: &[u8]) -> Result<bool, NativeError> {
        let restored = without_failure(context.load(slot as u32, state))?.is_some();
        match restored {
            true => self.held[slot].copy_from(held),
            false => self.held[slot].cut(0),
        }
        Ok(restored)
    }
}

/// What a cache does not succeed in costs time, no request: only an exception ends the worker.
fn without_failure<T>(result: Result<T, NativeError>) -> Result<Option<T>, NativeError> {
    match result {
        Err(error) if error.status == NativeStatus::Failed => {
            tracing::warn!(%error, "a prefix was not kept");
            Ok(None)
        }
        other => other.map(Some),
    }
}
