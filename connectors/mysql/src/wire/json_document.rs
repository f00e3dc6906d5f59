//! MySQL's binary JSON as a tree that can be changed, and back to bytes: for updates that hold only the changed parts of a document
//! (json_binary.h, json_diff.h).
//!
//! Scalars stay the bytes they are. What is written back is always the large form, which reads the same as the small one; a member that is put
//! into an object stands where the server would put it, by the length of its key and then by its bytes, so that the text is the server's own.

use super::{Cursor, DecodeError};

const WHAT: &str = "a JSON value";
const CUT: DecodeError = DecodeError::Truncated(WHAT);
const WRONG: DecodeError = DecodeError::Malformed(WHAT);
/// The server's own limit (`JSON_DOCUMENT_MAX_DEPTH`).
const DEPTH_MAX: usize = 100;
/// Type bytes of the large forms.
const LARGE_OBJECT: u8 = 1;
const LARGE_ARRAY: u8 = 3;

/// A value of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node<'a> {
    Object(Vec<(Vec<u8>, Node<'a>)>),
    Array(Vec<Node<'a>>),
    /// Type byte, and the bytes behind it.
    Scalar(u8, &'a [u8]),
}

/// What a difference does at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Replace,
    Insert,
    Remove,
}

/// A step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Leg {
    Member(Vec<u8>),
    Cell(usize),
}

/// The document after these differences, as bytes.
///
/// # Errors
/// Malformed bytes, or a difference that does not fit the document: it is not the one that the server changed.
pub(super) fn changed(document: &[u8], differences: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut left = document.len() * 16 + 64;
    let mut root = parse(document, &mut left)?;
    let mut cursor = Cursor::new(differences, "the changes of a JSON value");
    while !cursor.is_empty() {
        let operation = match cursor.u8()? {
            0 => Operation::Replace,
            1 => Operation::Insert,
            2 => Operation::Remove,
            _ => return Err(WRONG),
        };
        let path = legs(cursor.lenenc_bytes()?)?;
        let value = match operation {
            Operation::Remove => None,
            Operation::Replace | Operation::Insert => {
                let bytes = cursor.lenenc_bytes()?;
                left = left.saturating_add(bytes.len() * 16 + 64);
                Some(parse(bytes, &mut left)?)
            }
        };
        apply(&mut root, operation, &path, value)?;
    }
    let mut out = vec![0];
    let ty = write(&root, &mut out)?;
    if let Some(first) = out.first_mut() {
        *first = ty;
    }
    Ok(out)
}

fn apply<'a>(
    root: &mut Node<'a>,
    operation: Operation,
    path: &[Leg],
    value: Option<Node<'a>>,
) -> Result<(), DecodeError> {
    let Some((last, parents)) = path.split_last() else {
        // The whole document.
        *root = value.filter(|_| operation == Operation::Replace).ok_or(WRONG)?;
        return Ok(());
    };
    let mut node = root;
    for leg in parents {
        node = node.child(leg).ok_or(WRONG)?;
    }
    match (operation, value) {
        (Operation::Replace, Some(value)) => {
            *node.child(last).ok_or(WRONG)? = value;
            Ok(())
        }
        (Operation::Insert, Some(value)) => node.insert(last, value),
        (Operation::Remove, None) => node.remove(last),
        (Operation::Replace | Operation::Insert, None) | (Operation::Remove, Some(_)) => Err(WRONG),
    }
}

impl<'a> Node<'a> {
    fn child(&mut self, leg: &Leg) -> Option<&mut Self> {
        match (self, leg) {
            (Node::Object(members), Leg::Member(name)) => {
                members.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            (Node::Array(items), Leg::Cell(index)) => items.get_mut(*index),
            // A path may take what is no array as an array of one.
            (node @ (Node::Object(_) | Node::Scalar(..)), Leg::Cell(0)) => Some(node),
            (Node::Object(_) | Node::Array(_) | Node::Scalar(..), _) => None,
        }
    }

    fn insert(&mut self, leg: &Leg, value: Self) -> Result<(), DecodeError> {
        match (self, leg) {
            (Node::Object(members), Leg::Member(name)) => {
                let order = |key: &[u8]| (key.len(), key.to_vec());
                let at = members.partition_point(|(key, _)| order(key) < order(name));
                if members.get(at).is_some_and(|(key, _)| key == name) {
                    return Err(WRONG);
                }
                members.insert(at, (name.clone(), value));
                Ok(())
            }
            (Node::Array(items), Leg::Cell(index)) => {
                items.insert((*index).min(items.len()), value);
                Ok(())
            }
            (Node::Object(_) | Node::Array(_) | Node::Scalar(..), _) => Err(WRONG),
        }
    }

    fn remove(&mut self, leg: &Leg) -> Result<(), DecodeError> {
        match (self, leg) {
            (Node::Object(members), Leg::Member(name)) => {
                let at = members.iter().position(|(key, _)| key == name).ok_or(WRONG)?;
                members.remove(at);
                Ok(())
            }
            (Node::Array(items), Leg::Cell(index)) if *index < items.len() => {
                items.remove(*index);
                Ok(())
            }
            (Node::Object(_) | Node::Array(_) | Node::Scalar(..), _) => Err(WRONG),
        }
    }
}

/// Reads a path: `$`, then `.name`, `."quoted name"` and `[number]`.
fn legs(path: &[u8]) -> Result<Vec<Leg>, DecodeError> {
    let mut rest = path.strip_prefix(b"$").unwrap_or(path);
    let mut legs = Vec::new();
    while let Some((first, behind)) = rest.split_first() {
        match first {
            b'[' => {
                let end = behind.iter().position(|b| *b == b']').ok_or(CUT)?;
                let digits = behind.get(..end).and_then(|d| std::str::from_utf8(d).ok()).ok_or(WRONG)?;
                legs.push(Leg::Cell(digits.trim().parse().map_err(|_| WRONG)?));
                rest = behind.get(end + 1..).unwrap_or_default();
            }
            b'.' if behind.first() == Some(&b'"') => {
                let (name, end) = quoted(behind).ok_or(WRONG)?;
                legs.push(Leg::Member(name));
                rest = behind.get(end..).unwrap_or_default();
            }
            b'.' => {
                let end = behind.iter().position(|b| matches!(b, b'.' | b'[')).unwrap_or(behind.len());
                legs.push(Leg::Member(behind.get(..end).unwrap_or_default().to_vec()));
                rest = behind.get(end..).unwrap_or_default();
            }
            _ => return Err(WRONG),
        }
    }
    Ok(legs)
}

/// A name in double quotes, with JSON's escapes, and how many bytes it takes.
fn quoted(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut escaped = false;
    let end = bytes.iter().skip(1).position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    let name: String = serde_json::from_slice(bytes.get(..end + 2)?).ok()?;
    Some((name.into_bytes(), end + 2))
}

fn parse<'a>(document: &'a [u8], left: &mut usize) -> Result<Node<'a>, DecodeError> {
    // What an empty value means after an INSERT IGNORE of a NULL: null.
    let Some((ty, body)) = document.split_first() else { return Ok(Node::Scalar(4, &[0])) };
    node(*ty, body, 0, left)
}

fn node<'a>(ty: u8, body: &'a [u8], depth: usize, left: &mut usize) -> Result<Node<'a>, DecodeError> {
    // Offsets can point anywhere, so that a few bytes could mean any number of values.
    *left = left.checked_sub(1).ok_or(WRONG)?;
    if depth > DEPTH_MAX {
        return Err(WRONG);
    }
    let scalar = |length: usize| body.get(..length).map(|bytes| Node::Scalar(ty, bytes)).ok_or(CUT);
    match ty {
        0..=3 => container(ty, body, depth, left),
        4 => scalar(1),
        5 | 6 => scalar(2),
        7 | 8 => scalar(4),
        9..=11 => scalar(8),
        12 => scalar(counted(body)?),
        15 => scalar(1 + counted(body.get(1..).ok_or(CUT)?)?),
        _ => Err(WRONG),
    }
}

/// Bytes of a length, seven bits a byte, and what it counts.
fn counted(bytes: &[u8]) -> Result<usize, DecodeError> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(index + 1 + length);
        }
    }
    Err(WRONG)
}

fn container<'a>(ty: u8, body: &'a [u8], depth: usize, left: &mut usize) -> Result<Node<'a>, DecodeError> {
    let (object, width) = (ty <= 1, if ty.is_multiple_of(2) { 2 } else { 4 });
    let mut cursor = Cursor::new(body, WHAT);
    let read = |cursor: &mut Cursor<'_>| usize::try_from(cursor.uint(width)?).map_err(|_| WRONG);
    let count = read(&mut cursor)?;
    let body = body.get(..read(&mut cursor)?).ok_or(CUT)?;
    let key_bytes = if object { width + 2 } else { 0 };
    let mut keys = Cursor::new(cursor.take(count.checked_mul(key_bytes).ok_or(WRONG)?)?, WHAT);
    let (mut members, mut items) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let value_type = cursor.u8()?;
        let inlined = matches!(value_type, 4..=6) || (width == 4 && matches!(value_type, 7 | 8));
        let value = if inlined {
            node(value_type, cursor.take(width)?, depth + 1, left)?
        } else {
            let at = read(&mut cursor)?;
            node(value_type, body.get(at..).ok_or(CUT)?, depth + 1, left)?
        };
        if object {
            let at = read(&mut keys)?;
            let length = usize::from(keys.u16()?);
            let key = body.get(at..).and_then(|rest| rest.get(..length)).ok_or(CUT)?;
            members.push((key.to_vec(), value));
        } else {
            items.push(value);
        }
    }
    Ok(if object { Node::Object(members) } else { Node::Array(items) })
}

/// Appends a value without its type byte, and answers that.
fn write(node: &Node<'_>, out: &mut Vec<u8>) -> Result<u8, DecodeError> {
    let (keys, values): (Vec<&[u8]>, Vec<&Node<'_>>) = match node {
        Node::Scalar(ty, bytes) => {
            out.extend_from_slice(bytes);
            return Ok(*ty);
        }
        Node::Object(members) => members.iter().map(|(key, value)| (key.as_slice(), value)).unzip(),
        Node::Array(items) => (Vec::new(), items.iter().collect()),
    };
    let start = out.len();
    let number = |n: usize| u32::try_from(n).map(u32::to_le_bytes).map_err(|_| WRONG);
    out.extend(number(values.len())?);
    out.extend([0; 4]);
    let mut at = 8 + keys.len() * 6 + values.len() * 5;
    for key in &keys {
        out.extend(number(at)?);
        out.extend(u16::try_from(key.len()).map_err(|_| WRONG)?.to_le_bytes());
        at += key.len();
    }
    let entries = out.len();
    out.resize(entries + values.len() * 5, 0);
    for key in &keys {
        out.extend_from_slice(key);
    }
    for (index, value) in values.into_iter().enumerate() {
        let mut entry = [0; 5];
        let place = entry.split_at_mut(1).1;
        let ty = match value {
            Node::Scalar(ty @ 4..=8, bytes) => {
                place.get_mut(..bytes.len()).ok_or(WRONG)?.copy_from_slice(bytes);
                *ty
            }
            Node::Object(_) | Node::Array(_) | Node::Scalar(..) => {
                place.copy_from_slice(&number(out.len() - start)?);
                write(value, out)?
            }
        };
        entry[0] = ty;
        let from = entries + index * 5;
        out.get_mut(from..from + 5).ok_or(WRONG)?.copy_from_slice(&entry);
    }
    let bytes = number(out.len() - start)?;
    out.get_mut(start + 4..start + 8).ok_or(WRONG)?.copy_from_slice(&bytes);
    Ok(if matches!(node, Node::Object(_)) { LARGE_OBJECT } else { LARGE_ARRAY })
}
