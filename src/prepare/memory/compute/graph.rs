//! What ggml's graph allocator (`ggml-alloc.c`) would take for a graph, without ggml and without the graph's data.
//!
//! A node is an operation with a shape; weights and KV cache are not nodes, because they lie in buffers of their own.
//! The rules mirrored here: nodes are allocated in the order of a depth-first walk; a result takes the place of its
//! operand where the operation can work in place and nobody else reads the operand; a buffer is free after its last
//! reader; the smallest free block that fits is taken; inputs come first.

/// ggml's `TENSOR_ALIGNMENT`: the CPU's buffers place tensors at multiples of this.
const ALIGNMENT: u64 = 32;

/// Elements per dimension, the contiguous one first.
pub(super) type Shape = [u64; 4];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    F32,
    F16,
    I32,
    I64,
}

impl Type {
    fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Filled by the host before the graph runs.
    Input,
    /// A result of its own; `in_place` if it may overwrite an operand.
    Result { in_place: bool },
    /// Other elements of the same memory; the root is never itself a view. `None`: of a weight or the KV cache.
    View { root: Option<Id> },
}

#[derive(Debug)]
struct Node {
    kind: Kind,
    element: Type,
    shape: Shape,
    sources: Vec<Id>,
}

impl Node {
    fn bytes(&self) -> u64 {
        self.shape.iter().fold(self.element.bytes(), |bytes, &n| bytes.saturating_mul(n))
    }
}

/// A graph under construction.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    visited: Vec<bool>,
    /// In the order in which they are computed.
    order: Vec<Id>,
    inputs: Vec<Id>,
}

impl Graph {
    pub(super) fn shape(&self, id: Id) -> Shape {
        self.nodes[id.0].shape
    }

    pub(super) fn input(&mut self, element: Type, shape: Shape) -> Id {
        self.push(Kind::Input, element, shape, &[])
    }

    /// A result with memory of its own.
    pub(super) fn result(&mut self, shape: Shape, sources: &[Id]) -> Id {
        self.result_of(Type::F32, shape, sources)
    }

    pub(super) fn result_of(&mut self, element: Type, shape: Shape, sources: &[Id]) -> Id {
        self.push(Kind::Result { in_place: false }, element, shape, sources)
    }

    /// A result of the shape of its first operand, which may take the place of one of them.
    pub(super) fn in_place(&mut self, sources: &[Id]) -> Id {
        let shape = self.shape(sources[0]);
        self.push(Kind::Result { in_place: true }, Type::F32, shape, sources)
    }

    /// The same elements, or some of them, in another shape.
    pub(super) fn view(&mut self, of: Id, shape: Shape) -> Id {
        let (root, element) = match &self.nodes[of.0] {
            Node { kind: Kind::View { root }, element, .. } => (*root, *element),
            node => (Some(of), node.element),
        };
        self.push(Kind::View { root }, element, shape, &[of])
    }

    /// A write of `sources` into a weight or the KV cache.
    pub(super) fn store(&mut self, sources: &[Id]) -> Id {
        self.push(Kind::View { root: None }, Type::F32, [1; 4], sources)
    }

    /// A write of `sources` into `into`, of which the result is a view.
    pub(super) fn store_into(&mut self, into: Id, sources: &[Id]) -> Id {
        let shape = self.shape(into);
        let all = [sources, &[into]].concat();
        self.push(Kind::View { root: Some(into) }, Type::F32, shape, &all)
    }

    /// Adds a node and what it needs to the graph, operands first.
    pub(super) fn expand(&mut self, id: Id) {
        // Depth-first by a stack of our own: a graph is as deep as the model has layers.
        let mut stack = vec![(id, 0)];
        while let Some((at, next)) = stack.pop() {
            if next == 0 && std::mem::replace(&mut self.visited[at.0], true) {
                continue;
            }
            match self.nodes[at.0].sources.get(next) {
                Some(&source) => {
                    stack.push((at, next + 1));
                    stack.push((source, 0));
                }
                None if self.nodes[at.0].kind == Kind::Input => self.inputs.push(at),
                None => self.order.push(at),
            }
        }
    }

    /// The bytes that the graph's buffer needs.
    pub(super) fn buffer_bytes(&self) -> u64 {
        Allocation::new(self).run()
    }

    fn push(&mut self, kind: Kind, element: Type, shape: Shape, sources: &[Id]) -> Id {
        self.nodes.push(Node { kind, element, shape, sources: sources.to_vec() });
        self.visited.push(false);
        Id(self.nodes.len() - 1)
    }
}

#[derive(Clone, Copy, Default)]
struct Use {
    readers: u32,
    views: u32,
    /// Where it lies, while it owns that place.
    offset: Option<u64>,
}

struct Allocation<'a> {
    graph: &'a Graph,
    uses: Vec<Use>,
    /// Free (offset, size), by offset; the last one has no end.
    free: Vec<(u64, u64)>,
    peak: u64,
}

impl<'a> Allocation<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self { graph, uses: vec![Use::default(); graph.nodes.len()], free: vec![(0, u64::MAX / 2)], peak: 0 }
    }

    fn run(mut self) -> u64 {
        for &input in &self.graph.inputs {
            self.place(input);
        }
        for &Id(at) in &self.graph.order {
            if let Kind::View { root: Some(root) } = self.graph.nodes[at].kind {
                self.uses[root.0].views += 1;
            }
            for source in &self.graph.nodes[at].sources {
                self.uses[source.0].readers += 1;
            }
        }
        for &id in &self.graph.order {
            self.allocate(id);
            for &source in &self.graph.nodes[id.0].sources {
                self.read(source);
            }
        }
        self.peak
    }

    fn allocate(&mut self, id: Id) {
        match self.graph.nodes[id.0].kind {
            Kind::Result { in_place: true } if self.take_over(id) => {}
            Kind::Result { .. } => self.place(id),
            Kind::Input | Kind::View { .. } => {}
        }
    }

    /// Puts a result where an operand lies that nobody else reads.
    fn take_over(&mut self, id: Id) -> bool {
        let node = &self.graph.nodes[id.0];
        for &source in &node.sources {
            let operand = &self.graph.nodes[source.0];
            let used = self.uses[source.0];
            if operand.shape != node.shape || operand.element != node.element || (used.readers, used.views) != (1, 0) {
                continue;
            }
            // Views own no place, so ggml never takes theirs, even where that would be safe.
            if let Some(offset) = self.uses[source.0].offset.take() {
                self.uses[id.0].offset = Some(offset);
                return true;
            }
        }
        false
    }

    fn read(&mut self, id: Id) {
        let used = &mut self.uses[id.0];
        used.readers -= 1;
        if (used.readers, used.views) != (0, 0) {
            return;
        }
        match self.graph.nodes[id.0].kind {
            Kind::View { root: None } => {}
            Kind::View { root: Some(root) } => {
                self.uses[root.0].views -= 1;
                if (self.uses[root.0].readers, self.uses[root.0].views) == (0, 0) {
                    self.drop(root);
                }
            }
            _ => self.drop(id),
        }
    }

    fn drop(&mut self, id: Id) {
        if let Some(offset) = self.uses[id.0].offset.take() {
            self.release(offset, aligned(self.graph.nodes[id.0].bytes()));
        }
    }

    /// Takes the smallest free block that fits; the endless last one only if no other does.
    fn place(&mut self, id: Id) {
        let size = aligned(self.graph.nodes[id.0].bytes());
        let last = self.free.len() - 1;
        let fitting = self.free[..last].iter().enumerate().filter(|(_, block)| block.1 >= size);
        // Of equal blocks ggml takes the one at the highest address.
        let best = fitting.min_by_key(|(index, block)| (block.1, std::cmp::Reverse(*index))).map_or(last, |(i, _)| i);
        let block = &mut self.free[best];
        let offset = block.0;
        *block = (offset + size, block.1 - size);
        if block.1 == 0 {
            self.free.remove(best);
        }
        self.uses[id.0].offset = Some(offset);
        self.peak = self.peak.max(offset + size);
    }

    fn release(&mut self, offset: u64, size: u64) {
        if size == 0 {
            return;
        }
        let at = self.free.partition_point(|block| block.0 < offset);
        self.free.insert(at, (offset, size));
        for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
            if left + 1 < self.free.len() && self.free[left].0 + self.free[left].1 == self.free[left + 1].0 {
                self.free[left].1 += self.free.remove(left + 1).1;
            }
        }
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Shape = [8, 1, 1, 1];

    #[test]
    fn a_result_takes_the_place_of_an_operand_that_nobody_else_reads() {
        let mut graph = Graph::default();
        let a = graph.input(Type::F32, ROW);
        let b = graph.in_place(&[a]);
        let c = graph.in_place(&[b]);
        graph.expand(c);
        assert_eq!(graph.buffer_bytes(), 32);
    }

    #[test]
    fn an_operand_that_is_read_again_stays() {
        let mut graph = Graph::default();
        let a = graph.input(Type::F32, ROW);
        let b = graph.in_place(&[a]);
        let sum = graph.in_place(&[b, a]);
        graph.expand(sum);
        assert_eq!(graph.buffer_bytes(), 64);
    }

    #[test]
    fn freed_blocks_are_joined_and_taken_again() {
        let mut graph = Graph::default();
        let a = graph.input(Type::F32, ROW);
        let b = graph.result(ROW, &[a]);
        let c = graph.result(ROW, &[b]);
        // a and b are free by now and adjoin.
        let wide = graph.result([16, 1, 1, 1], &[c]);
        graph.expand(wide);
        assert_eq!(graph.buffer_bytes(), 96);
    }

    #[test]
    fn views_hold_their_root_and_sizes_are_rounded_up() {
        let mut graph = Graph::default();
        let a = graph.input(Type::I64, [3, 1, 1, 1]);
        let view = graph.view(a, [1, 3, 1, 1]);
        let b = graph.result_of(Type::F16, [1, 1, 1, 1], &[view]);
        let stored = graph.store(&[b, view]);
        graph.expand(stored);
        assert_eq!(graph.buffer_bytes(), 64);
    }
}
