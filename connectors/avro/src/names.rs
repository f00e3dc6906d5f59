//! Names that Avro accepts: Debezium's `schema.name.adjustment.mode=avro`.
//!
//! Every UTF-16 unit outside `[A-Za-z0-9_]` becomes `_`, and a leading digit gets a `_` in front. Unlike Debezium, each part
//! between dots is held to that, so that what comes out is always a valid full name.

/// A valid Avro name without dots: fields.
pub(crate) fn field_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    push_part(name, &mut out);
    out
}

/// A valid dotted Avro name: records.
pub(crate) fn full_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (index, part) in name.split('.').enumerate() {
        if index > 0 {
            out.push('.');
        }
        push_part(part, &mut out);
    }
    out
}

/// Namespace (before the last dot) and name.
pub(crate) fn split_full_name(name: &str) -> (Option<&str>, &str) {
    name.rsplit_once('.').map_or((None, name), |(namespace, name)| (Some(namespace), name))
}

fn push_part(part: &str, out: &mut String) {
    if part.is_empty() || part.starts_with(|c: char| c.is_ascii_digit()) {
        out.push('_');
    }
    for c in part.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
        } else {
            out.extend(std::iter::repeat_n('_', c.len_utf16()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_valid() {
        assert_eq!(full_name("shop-1.public.order items.Value"), "shop_1.public.order_items.Value");
        assert_eq!(full_name("1shop.2.Key"), "_1shop._2.Key");
        assert_eq!(full_name("größe.😀"), "gr__e.__");
        assert_eq!(full_name("a..b"), "a._.b");
        assert_eq!(field_name("a.b c"), "a_b_c");
        assert_eq!(field_name(""), "_");
    }
}
