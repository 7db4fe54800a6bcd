// SPDX-License-Identifier: Apache-2.0
//! Which word is that of an address, by longest prefix, in as many nodes as tell addresses apart?

use policy_ebpf_common::abi::{TRIE_FANOUT, TrieNode, TrieWord};

/// A multibit trie whose root consumes `root_bits` and whose inner nodes consume four bits each.
#[derive(Clone, Debug)]
pub(super) struct Trie {
    pub(super) nodes: Vec<TrieNode>,
    root_bits: u8,
    /// Nodes that nothing leads to.
    free: Vec<u32>,
}

impl Trie {
    pub(super) fn new(root_nodes: usize, root_bits: u8) -> Self {
        Self {
            nodes: vec![TrieNode::default(); root_nodes],
            root_bits,
            free: Vec::new(),
        }
    }

    /// Gives all addresses of a prefix a word, whatever they had, and takes away nodes that tell nothing
    /// apart any more. The prefix is given left-aligned.
    pub(super) fn set(&mut self, bits: u128, length: u8, word: TrieWord) {
        let mut path: Vec<usize> = Vec::with_capacity(32);
        let mut first = 0;
        let mut consumed = 0;
        let mut width = self.root_bits;
        loop {
            // Words of this level below the node: `width` bits of the address select one.
            let index = (bits << consumed) >> (128 - width);
            let index = first * TRIE_FANOUT + usize::try_from(index).unwrap_or_default();
            if consumed + width >= length {
                let count = 1usize << (consumed + width - length);
                for index in index..index + count {
                    self.put(index, word);
                }
                break;
            }
            if self.word(index).is_some_and(|known| *known == word.0) {
                // The word is that of all addresses here.
                break;
            }
            consumed += width;
            width = 4;
            first = self.child(index);
            path.push(index);
        }
        while let Some(parent) = path.pop() {
            let Some(node) = self.nodes.get(first) else {
                return;
            };
            let [word, ..] = node.words;
            if TrieWord(word).as_child().is_some() || node.words.iter().any(|other| *other != word)
            {
                return;
            }
            self.free.extend(u32::try_from(first));
            if let Some(to) = self.word(parent) {
                *to = word;
            }
            first = parent / TRIE_FANOUT;
        }
    }

    /// Replaces a word, and with it whatever is below.
    fn put(&mut self, index: usize, word: TrieWord) {
        let Some(to) = self.word(index) else {
            return;
        };
        let gone = std::mem::replace(to, word.0);
        let mut below: Vec<u32> = TrieWord(gone).as_child().into_iter().collect();
        while let Some(child) = below.pop() {
            self.free.push(child);
            let words = self.nodes.get(child as usize).map(|node| node.words);
            let words = words.into_iter().flatten();
            below.extend(words.filter_map(|word| TrieWord(word).as_child()));
        }
    }

    /// The node below a word, made of copies of the word if it was a leaf.
    fn child(&mut self, index: usize) -> usize {
        let Some(word) = self.word(index).copied() else {
            return 0;
        };
        if let Some(child) = TrieWord(word).as_child() {
            return child as usize;
        }
        let copies = TrieNode {
            words: [word; TRIE_FANOUT],
        };
        let free = self.free.pop().map(|free| free as usize);
        let next = free.unwrap_or(self.nodes.len());
        match self.nodes.get_mut(next) {
            Some(node) => *node = copies,
            None => self.nodes.push(copies),
        }
        if let Some(to) = self.word(index) {
            *to = TrieWord::child(u32::try_from(next).unwrap_or(u32::MAX >> 1)).0;
        }
        next
    }

    fn word(&mut self, index: usize) -> Option<&mut u32> {
        self.nodes
            .get_mut(index / TRIE_FANOUT)?
            .words
            .get_mut(index % TRIE_FANOUT)
    }
}
