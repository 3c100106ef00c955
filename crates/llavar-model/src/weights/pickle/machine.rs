//! The stack machine.

use std::{cell::Cell, collections::HashMap};

use super::{Global, Id, Node, PickleError};

/// The pickle of a 13B model has about 200 kB; a node takes 32 bytes or less for each byte of input.
const MAX_PICKLE: usize = 8 << 20;

/// A finished pickle: an arena of nodes and the value left by STOP.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    nodes: Vec<Node<'a>>,
    pub(crate) root: Id,
    /// Bytes of the input that were used, STOP included.
    pub(crate) used: usize,
}

impl<'a> Pickle<'a> {
    pub(crate) fn node(&self, id: Id) -> &Node<'a> {
        // Ids are only made by `push`, and nodes are never removed.
        &self.nodes[id.0 as usize]
    }
}

/// Runs one pickle at the start of `input`.
pub(crate) fn load(input: &[u8]) -> Result<Pickle<'_>, PickleError> {
    let limited = &input[..input.len().min(MAX_PICKLE)];
    let mut machine = Machine {
        input: limited,
        at: 0,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        copied: Cell::new(0),
    };
    match machine.run() {
        Ok(root) => Ok(Pickle {
            nodes: machine.nodes,
            root,
            used: machine.at,
        }),
        Err(PickleError::Truncated { .. }) if limited.len() < input.len() => {
            Err(PickleError::TooLarge {
                bytes: input.len(),
                limit: MAX_PICKLE,
            })
        }
        Err(error) => Err(error),
    }
}

pub(super) struct Machine<'a> {
    pub(super) input: &'a [u8],
    pub(super) at: usize,
    nodes: Vec<Node<'a>>,
    pub(super) stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    /// A map, because an index in the file may be any 32-bit number.
    memo: HashMap<u32, Id>,
    /// List items copied so far; see [`Machine::spend`].
    pub(super) copied: Cell<usize>,
}

pub(super) type Result<T, E = PickleError> = std::result::Result<T, E>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id> {
        loop {
            let opcode_at = self.at;
            let [opcode] = self.bytes::<1>()?;
            match opcode {
                // PROTO, FRAME: protocol number and frame length carry nothing that is needed.
                0x80 => drop(self.bytes::<1>()?),
                0x95 => drop(self.bytes::<8>()?),
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => match self.marks.last() {
                    Some(&height) if height == self.stack.len() => drop(self.marks.pop()),
                    _ => drop(self.pop()?),
                },
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'N' => self.push(Node::None),
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                b'I' | b'L' => self.text_integer()?,
                b'J' => {
                    let n = i32::from_le_bytes(self.bytes()?);
                    self.push(Node::Int(n.into()));
                }
                b'K' => {
                    let [n] = self.bytes::<1>()?;
                    self.push(Node::Int(n.into()));
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.bytes()?);
                    self.push(Node::Int(n.into()));
                }
                0x8a | 0x8b => self.long(opcode)?,
                b'F' => {
                    self.line()?;
                    self.push(Node::Opaque);
                }
                b'G' => {
                    self.bytes::<8>()?;
                    self.push(Node::Opaque);
                }
                // Text: BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, and the byte strings of Python 2.
                b'X' | b'T' => {
                    let n = u64::from(u32::from_le_bytes(self.bytes()?));
                    self.text(n)?;
                }
                0x8c | b'U' => {
                    let [n] = self.bytes::<1>()?;
                    self.text(n.into())?;
                }
                0x8d => {
                    let n = u64::from_le_bytes(self.bytes()?);
                    self.text(n)?;
                }
                // Bytes: SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8.
                b'C' => {
                    let [n] = self.bytes::<1>()?;
                    self.skip(n.into())?;
                    self.push(Node::Opaque);
                }
                b'B' => {
                    let n = u32::from_le_bytes(self.bytes()?);
                    self.skip(n.into())?;
                    self.push(Node::Opaque);
                }
                0x8e | 0x96 => {
                    let n = u64::from_le_bytes(self.bytes()?);
                    self.skip(n)?;
                    self.push(Node::Opaque);
                }
                b')' => self.push(Node::Tuple(Box::default())),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Tuple(items.into()));
                }
                0x85..=0x87 => {
                    let items = self.pop_n(usize::from(opcode - 0x84))?;
                    self.push(Node::Tuple(items.into()));
                }
                b']' => self.push(Node::List(Vec::new())),
                b'l' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::List(items));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b'}' => self.push(Node::Dict(Vec::new())),
                b'd' => {
                    let items = self.pop_to_mark()?;
                    self.push(Node::Dict(Vec::new()));
                    self.set_items(items)?;
                }
                b's' => {
                    let items = self.pop_n(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                // Sets hold nothing that can be a tensor's name or data.
                0x8f => self.push(Node::Opaque),
                0x90 => drop(self.pop_to_mark()?),
                0x91 => {
                    self.pop_to_mark()?;
                    self.push(Node::Opaque);
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name, opcode_at)?;
                }
                0x93 => {
                    let names = self.pop_n(2)?;
                    match (self.get(names[0]), self.get(names[1])) {
                        (&Node::Str(module), &Node::Str(name)) => {
                            self.global(module, name, opcode_at)?
                        }
                        _ => return Err(self.damaged("two strings for a global")),
                    }
                }
                b'R' | 0x81 => {
                    let operands = self.pop_n(2)?;
                    self.reduce(operands[0], operands[1])?;
                }
                // BUILD sets attributes (`_metadata` of a state dict); they carry no tensors.
                b'b' => {
                    self.pop()?;
                    let target = self.top()?;
                    if !matches!(
                        self.get(target),
                        Node::Dict(_) | Node::Tensor(_) | Node::Opaque
                    ) {
                        return Err(self.damaged("a dict or tensor to set attributes of"));
                    }
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(Node::Storage(Box::new(storage)));
                }
                b'q' => {
                    let [n] = self.bytes::<1>()?;
                    self.put(n.into())?;
                }
                b'r' => {
                    let n = u32::from_le_bytes(self.bytes()?);
                    self.put(n)?;
                }
                // MEMOIZE numbers by the memo's size; opcodes are fewer than 2^32.
                0x94 => self.put(self.memo.len() as u32)?,
                b'h' => {
                    let [n] = self.bytes::<1>()?;
                    self.recall(n.into())?;
                }
                b'j' => {
                    let n = u32::from_le_bytes(self.bytes()?);
                    self.recall(n)?;
                }
                b'p' | b'g' => {
                    let line = self.line()?;
                    let n = line.parse().map_err(|_| self.damaged("a memo number"))?;
                    if opcode == b'p' {
                        self.put(n)?
                    } else {
                        self.recall(n)?
                    }
                }
                _ => {
                    return Err(PickleError::Opcode {
                        opcode,
                        at: opcode_at,
                    });
                }
            }
        }
    }

    fn global(&mut self, module: &str, name: &str, at: usize) -> Result<()> {
        match Global::find(module, name) {
            Some(global) => {
                self.push(Node::Global(global));
                Ok(())
            }
            None => {
                // A hostile name may be megabytes long.
                let short = |s: &str| s.chars().take(100).collect();
                Err(PickleError::Global {
                    module: short(module),
                    name: short(name),
                    at,
                })
            }
        }
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let target = self.top()?;
        match self.get_mut(target) {
            Node::List(list) => list.extend(items),
            Node::Opaque => {}
            _ => return Err(self.damaged("a list to append to")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<()> {
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(self.damaged("keys and values in pairs"));
        }
        let target = self.top()?;
        match self.get_mut(target) {
            Node::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            _ => return Err(self.damaged("a dict to set items of")),
        }
        Ok(())
    }

    fn text_integer(&mut self) -> Result<()> {
        let line = self.line()?;
        let node = match line.trim_end_matches('L') {
            "00" => Node::Bool(false),
            "01" => Node::Bool(true),
            digits => Node::Int(digits.parse().map_err(|_| self.damaged("an integer"))?),
        };
        self.push(node);
        Ok(())
    }

    fn long(&mut self, opcode: u8) -> Result<()> {
        let n = if opcode == 0x8a {
            u64::from(self.bytes::<1>()?[0])
        } else {
            u64::from(u32::from_le_bytes(self.bytes()?))
        };
        let bytes = self.skip(n)?;
        let node = if bytes.len() > 8 {
            Node::BigInt(bytes)
        } else {
            // Two's complement, extended by its sign.
            let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) {
                0xff
            } else {
                0
            };
            let mut wide = [fill; 8];
            wide[..bytes.len()].copy_from_slice(bytes);
            Node::Int(i64::from_le_bytes(wide))
        };
        self.push(node);
        Ok(())
    }

    fn text(&mut self, len: u64) -> Result<()> {
        let bytes = self.skip(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("text in UTF-8"))?;
        self.push(Node::Str(text));
        Ok(())
    }

    fn put(&mut self, n: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(n, top);
        Ok(())
    }

    fn recall(&mut self, n: u32) -> Result<()> {
        let id = *self
            .memo
            .get(&n)
            .ok_or_else(|| self.damaged("a memo entry that was stored before"))?;
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn push(&mut self, node: Node<'a>) {
        // The input is limited to 64 MiB and each opcode pushes one node, so 32 bits suffice.
        let id = Id(self.nodes.len() as u32);
        self.nodes.push(node);
        self.stack.push(id);
    }

    pub(super) fn get(&self, id: Id) -> &Node<'a> {
        &self.nodes[id.0 as usize]
    }

    fn get_mut(&mut self, id: Id) -> &mut Node<'a> {
        &mut self.nodes[id.0 as usize]
    }

    /// The lowest height that the innermost open mark allows to take from.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(self.damaged("a value on the stack"));
        }
        self.stack
            .last()
            .copied()
            .ok_or_else(|| self.damaged("a value on the stack"))
    }

    fn pop(&mut self) -> Result<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Exactly `n` values.
    fn pop_n(&mut self, n: usize) -> Result<Vec<Id>> {
        if self.stack.len() < self.floor() + n {
            return Err(self.damaged("more values on the stack"));
        }
        Ok(self.stack.split_off(self.stack.len() - n))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>> {
        let height = self
            .marks
            .pop()
            .ok_or_else(|| self.damaged("an open mark"))?;
        Ok(self.stack.split_off(height))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self
            .input
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>());
        let bytes = *bytes.ok_or(PickleError::Truncated {
            at: self.input.len(),
        })?;
        self.at += N;
        Ok(bytes)
    }

    fn skip(&mut self, len: u64) -> Result<&'a [u8]> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let bytes = usize::try_from(len).ok().and_then(|n| rest.get(..n));
        let bytes = bytes.ok_or(PickleError::Truncated {
            at: self.input.len(),
        })?;
        self.at += bytes.len();
        Ok(bytes)
    }

    /// A line of text without its end, as protocol 0 and GLOBAL use.
    fn line(&mut self) -> Result<&'a str> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let end = rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or(PickleError::Truncated {
                at: self.input.len(),
            })?;
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| self.damaged("text in UTF-8"))?;
        self.at += end + 1;
        Ok(line)
    }

    pub(super) fn damaged(&self, what: &'static str) -> PickleError {
        PickleError::Damaged { at: self.at, what }
    }
}
