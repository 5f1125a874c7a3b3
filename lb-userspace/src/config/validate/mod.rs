//! Raw types to model. Every check runs, whatever the others found; the model exists only if none complained.

mod address;
mod group;
mod health;
mod metrics;
mod node;
mod pool;
mod vip;
mod tunnel;

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::path::Path;

use serde_yaml::Spanned;

use super::error::{Place, Problem};
use super::raw::{self, Field};
use super::source::Excerpt;
use super::what::{Kind, What, nearest};
use crate::model::{self, Model, Name};

/// The model of a file, or all that is wrong with it. `text` is what `file` was read from.
///
/// # Errors
/// At least one problem, in no particular order, without snippets.
pub(super) fn model(file: &raw::File, text: &str, path: &Path) -> Result<Model, Vec<Problem>> {
    let mut check = Check {
        text,
        problems: Vec::new(),
    };
    if is_empty(file) {
        check.report(Place::default(), Trail::Root, What::Empty);
        return Err(check.problems);
    }
    let node = node::node(&mut check, file);
    let group = group::group(&mut check, file, node.as_ref().map(|node| &node.name), path);
    let capacity = node::capacity(&mut check, file);
    let encap = address::encap(&mut check, file);
    let mut pools = pool::pools(&mut check, file, &encap, capacity, path);
    let vips = vip::vips(&mut check, file, &encap, capacity);
    let metrics = metrics::metrics(&mut check, file);
    tunnel::vips_of_checks(&mut check, file, &mut pools, &vips);
    match (node, group, check.problems) {
        (Some(node), Some(group), problems) if problems.is_empty() => Ok(Model {
            path: path.to_owned(),
            node,
            group,
            capacity,
            encap,
            pools,
            vips,
            metrics,
        }),
        (_, _, problems) => Err(problems),
    }
}

fn is_empty(file: &raw::File) -> bool {
    let raw::File {
        node,
        group,
        capacity,
        encap,
        pools,
        vips,
        metrics,
    } = file;
    node.is_none()
        && group.is_none()
        && capacity.is_none()
        && encap.is_none()
        && pools.is_none()
        && vips.is_none()
        && metrics.is_none()
}

/// The way from the root of the file to a field; written out only for a problem.
#[derive(Clone, Copy)]
enum Trail<'t> {
    Root,
    Field(&'t Trail<'t>, &'static str),
    Item(&'t Trail<'t>, usize),
}

impl Trail<'_> {
    fn field(&self, name: &'static str) -> Trail<'_> {
        Trail::Field(self, name)
    }

    fn item(&self, index: usize) -> Trail<'_> {
        Trail::Item(self, index)
    }
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Field(Self::Root, name) => f.write_str(name),
            Self::Field(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Where a value is used; for an alias, the alias.
fn place<T>(value: &Spanned<T>) -> Place {
    value.referenced.into()
}

/// Collects problems, and holds what most checks need.
struct Check<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Check<'_> {
    fn report(&mut self, place: Place, trail: Trail<'_>, what: What) {
        self.problems.push(Problem::new(place, trail.to_string(), what));
    }

    /// The value of a field that must be there; `owner` is the mapping that should hold it.
    fn required<'f, T>(
        &mut self,
        field: &'f Field<T>,
        owner: Place,
        trail: Trail<'_>,
    ) -> Option<&'f Spanned<T>> {
        if field.is_none() {
            let name = if let Trail::Field(_, name) = trail {
                name
            } else {
                ""
            };
            self.report(owner, trail, What::Missing(name));
        }
        field.as_ref()
    }

    /// A list that must be there and hold something.
    fn items<'f, T>(&mut self, field: &'f Field<Vec<T>>, owner: Place, trail: Trail<'_>) -> &'f [T] {
        let Some(list) = self.required(field, owner, trail) else {
            return &[];
        };
        if list.value.is_empty() {
            self.report(place(list), trail, What::EmptyList);
        }
        &list.value
    }

    fn name(&mut self, text: &Spanned<String>, trail: Trail<'_>) -> Option<Name> {
        let name = text.value.parse();
        name.map_err(|error| self.report(place(text), trail, What::Name(error)))
            .ok()
    }

    /// A name; one that was seen before is reported and returned all the same.
    fn unique_name(
        &mut self,
        seen: &mut HashMap<Name, u32>,
        text: &Spanned<String>,
        trail: Trail<'_>,
        kind: Kind,
    ) -> Option<Name> {
        let name = self.name(text, trail)?;
        self.unique(
            seen,
            name.clone(),
            Duplicate {
                place: place(text),
                trail,
                kind,
                value: &name,
            },
        );
        Some(name)
    }

    fn interface(&mut self, text: &Spanned<String>, trail: Trail<'_>) -> Option<String> {
        let name = model::interface(&text.value);
        name.map_err(|error| self.report(place(text), trail, What::Interface(error)))
            .ok()
    }

    /// One of a few words.
    fn choice<T: Copy>(
        &mut self,
        text: &Spanned<String>,
        trail: Trail<'_>,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let choice = words.iter().find(|(word, _)| *word == text.value);
        if choice.is_none() {
            let valid = words.iter().map(|(word, _)| *word).collect();
            self.report(
                place(text),
                trail,
                What::Choice {
                    found: Excerpt::new(&text.value),
                    valid,
                },
            );
        }
        choice.map(|(_, value)| *value)
    }

    /// A whole number in a range, in decimal digits without leading zeros, which YAML 1.1 takes for octal.
    fn number(&mut self, text: &Spanned<String>, trail: Trail<'_>, (min, max): (u32, u32)) -> Option<u32> {
        let found = Excerpt::new(&text.value);
        let digits = text.value.strip_prefix('-').unwrap_or(&text.value);
        let is_number = digits == "0"
            || !digits.is_empty()
                && !digits.starts_with('0')
                && digits.bytes().all(|digit| digit.is_ascii_digit());
        let what = match text.value.parse::<u32>() {
            _ if !is_number => What::Number { found },
            _ if self.is_quoted(text) => What::QuotedNumber { found },
            Ok(number) if (min..=max).contains(&number) => return Some(number),
            _ => What::Range { found, min, max },
        };
        self.report(place(text), trail, what);
        None
    }

    /// Whether a value stands in quotes, which YAML drops.
    fn is_quoted(&self, value: &Spanned<String>) -> bool {
        let offset = value
            .defined
            .span()
            .byte_offset()
            .and_then(|offset| usize::try_from(offset).ok());
        let first = offset.and_then(|offset| self.text.as_bytes().get(offset));
        matches!(first, Some(b'"' | b'\''))
    }

    /// Reports `value` if it was seen before, else remembers its line.
    fn unique<K: Hash + Eq>(&mut self, seen: &mut HashMap<K, u32>, key: K, duplicate: Duplicate<'_>) {
        let Duplicate {
            place,
            trail,
            kind,
            value,
        } = duplicate;
        match seen.get(&key) {
            Some(&first) => {
                let what = What::Duplicate {
                    kind,
                    value: Excerpt::new(&value.to_string()),
                    first,
                };
                self.report(place, trail, what);
            }
            None => drop(seen.insert(key, place.line)),
        }
    }

    /// Reports the first of `count` things for which there is no room.
    fn room(&mut self, first_over: Option<Place>, trail: Trail<'_>, kind: Kind, count: usize, room: u32) {
        if let Some(place) = first_over {
            self.report(place, trail, What::TooMany { kind, count, room });
        }
    }
}

/// A value that may be there before, and how to say so.
#[derive(Clone, Copy)]
struct Duplicate<'d> {
    place: Place,
    trail: Trail<'d>,
    kind: Kind,
    value: &'d dyn fmt::Display,
}

/// The name in `names` that is nearly `word`.
fn near_name<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<Excerpt> {
    nearest(word, names).map(Excerpt::new)
}
