//! The end of a machine, or of a process on it, and what the next one begins with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::{Flying, Machine};
use crate::names::{Names, NodeId};
use crate::node::Node;
use crate::survival::{Loss, Survival, Undurable};

impl Machine {
    /// How many writes of processes that were killed are still on their way.
    pub(crate) fn late_writes(&self) -> usize {
        if self.down { 0 } else { self.late.len() }
    }

    /// One of them lands; when the last one of its file has, the lock is free.
    pub(crate) fn land_late(&mut self) {
        if self.late.is_empty() {
            return;
        }
        let index = self.dice.index(self.late.len());
        let write = self.late.swap_remove(index);
        let number = self.next_landing();
        let others = self.late.iter();
        let is_last = !others
            .into_iter()
            .any(|late| late.description == write.description);
        let node = self.nodes.entry(write.node).or_default();
        node.write(number, write.offset, &write.bytes, write.durable);
        if is_last && node.lock == Some(write.description) {
            node.lock = None;
        }
    }

    /// What a power failure may take, in the order in which it is decided.
    pub(crate) fn undurable(&self) -> Vec<Undurable> {
        let names = self.names.undurable().map(|path| Undurable {
            what: Loss::Name,
            path: path.to_owned(),
        });
        let mut list: Vec<_> = names.collect();
        let paths = self.paths();
        for (id, node) in &self.nodes {
            let path = paths.get(id).cloned().unwrap_or_default();
            if node.is_resized() {
                list.push(Undurable {
                    what: Loss::Length,
                    path: path.clone(),
                });
            }
            list.extend(node.undurable().iter().map(|landed| Undurable {
                what: Loss::Written {
                    offset: landed.offset,
                    len_bytes: landed.bytes.len(),
                },
                path: path.clone(),
            }));
        }
        list.extend(self.all_flying().iter().map(undurable_flight));
        list
    }

    /// What the end of the process leaves to chance.
    pub(crate) fn in_flight_list(&self) -> Vec<Undurable> {
        let flying = self.process_flying();
        flying.iter().map(undurable_flight).collect()
    }

    fn process_flying(&self) -> Vec<Flying> {
        if self.down {
            self.flying.clone()
        } else {
            self.in_flight()
        }
    }

    fn all_flying(&self) -> Vec<Flying> {
        let mut flying = self.process_flying();
        flying.extend(self.late.iter().cloned());
        flying
    }

    fn paths(&self) -> BTreeMap<NodeId, PathBuf> {
        self.names
            .files()
            .map(|(path, node)| (node, path))
            .collect()
    }

    /// The machine that starts after a power failure.
    pub(crate) fn after_power_failure(&self, mut decisions: Vec<Survival>) -> Self {
        decisions.reverse();
        let mut decide = || decisions.pop().unwrap_or(Survival::Lost);
        let kept: Vec<bool> = self
            .names
            .undurable()
            .map(|_| !matches!(decide(), Survival::Lost | Survival::Late))
            .collect();
        let names = self.names.after_power_failure(|number| kept[number]);
        let mut nodes = BTreeMap::new();
        for (id, node) in &self.nodes {
            let keeps_len =
                node.is_resized() && !matches!(decide(), Survival::Lost | Survival::Late);
            let mut left = node.after_power_failure(keeps_len);
            for landed in node.undurable() {
                for piece in decide().pieces(landed.offset, landed.bytes.len()) {
                    let at = landed.offset + piece.start as u64;
                    left.restore(at, &landed.bytes[piece]);
                }
            }
            nodes.insert(*id, left);
        }
        for write in self.all_flying() {
            let left = nodes.entry(write.node).or_default();
            for piece in decide().pieces(write.offset, write.bytes.len()) {
                left.restore(write.offset + piece.start as u64, &write.bytes[piece]);
            }
        }
        let named: BTreeSet<_> = names.files().map(|(_, node)| node).collect();
        nodes.retain(|id, _| named.contains(id));
        self.restarted(names, nodes)
    }

    /// The machine as the next process finds it after this one was killed: only what was in flight
    /// is uncertain, and nothing has become durable by it.
    pub(crate) fn after_kill(&self, mut decisions: Vec<Survival>) -> Self {
        decisions.reverse();
        let nodes = self.nodes.iter().map(|(id, node)| (*id, node.after_kill()));
        let mut next = self.restarted(self.names.clone(), nodes.collect());
        next.late.clone_from(&self.late);
        for write in self.process_flying() {
            let decision = decisions.pop().unwrap_or(Survival::Lost);
            if decision == Survival::Late {
                next.late.push(write);
                continue;
            }
            for piece in decision.pieces(write.offset, write.bytes.len()) {
                let number = next.next_landing();
                let at = write.offset + piece.start as u64;
                let node = next.nodes.entry(write.node).or_default();
                node.write(number, at, &write.bytes[piece], false);
            }
        }
        // Some arrive at once, others when whoever did not wait for the lock has long gone on.
        next.late_one_in = 2 << (3 * next.dice.below(4));
        for late in &next.late {
            let held = self.nodes.get(&late.node).and_then(|node| node.lock);
            if held == Some(late.description)
                && let Some(node) = next.nodes.get_mut(&late.node)
            {
                node.lock = held;
            }
        }
        next
    }

    fn restarted(&self, names: Names, nodes: BTreeMap<NodeId, Node>) -> Self {
        Self {
            dice: self.dice.clone(),
            names,
            nodes,
            next_node: self.next_node,
            next_description: self.next_description,
            landed: self.landed,
            ..Self::new(self.options)
        }
    }
}

fn undurable_flight(write: &Flying) -> Undurable {
    Undurable {
        what: Loss::InFlight {
            offset: write.offset,
            len_bytes: write.bytes.len(),
        },
        path: write.path.to_path_buf(),
    }
}
