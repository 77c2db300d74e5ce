//! The cells of the columns of an action, and of an item of an order or a cart. Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::matomo::json;
use crate::matomo::keys::{ITEM_KEYS, ITEM_PLACES};
use crate::matomo::visit::{Action, Dimensions, Members};
use crate::rows::cell::{Misfit, extra, instant, put, sent};
use crate::rows::column_type::Value;
use crate::rows::columns::Source;
use crate::rows::custom;
use crate::rows::layout::Slot;
use crate::rows::lines::Cells;
use crate::rows::values::{self, Member};
use crate::rows::visit_cells::action_key;

/// An element of `itemDetails`.
#[derive(Default)]
pub struct Item<'a> {
    /// The values of [`ITEM_KEYS`].
    values: [Option<&'a RawValue>; ITEM_KEYS.len()],
    unknown: Members<'a>,
}

impl<'a> Item<'a> {
    /// The items of an order or a cart, in order.
    pub fn all(details: &'a RawValue) -> Vec<Item<'a>> {
        let mut items = Vec::new();
        json::each_member(details, |_, raw| {
            // Anything else is no item. A real one is several times as long as this.
            if !raw.get().starts_with('{') || items.len() > details.get().len() / 32 {
                return;
            }
            let mut item = Item::default();
            json::each_member(raw, |key, value| match ITEM_PLACES.find(&key) {
                _ if value.get() == "null" => {}
                Some(place) => item.values[place] = Some(value),
                None => item.unknown.push((key, value)),
            });
            items.push(item);
        });
        items
    }
}

/// The sources of an action's own columns.
pub struct Row<'v, 'a> {
    pub id: i64,
    /// Its place in the visit.
    pub index: usize,
    pub at: i64,
    pub action: &'v Action<'a>,
    /// The action's and the visit's.
    pub dimensions: &'v Dimensions<'a>,
    pub visit_variables: &'v [Member],
    /// With its place in the order or cart.
    pub item: Option<(usize, &'v Item<'a>)>,
}

impl<'a> Row<'_, 'a> {
    /// Writes the value of a column.
    pub fn write(&self, cells: &mut Cells, slot: &Slot, misfits: &mut Vec<Misfit<'a>>) {
        let (text, members);
        let own = || slot.key.and_then(|key| self.action.values[key]);
        let value = match slot.column.source {
            Source::Action(_) => sent(own()),
            Source::ActionOr(_, default) => own().map_or(Value::Text(default), Value::Sent),
            Source::EventValue => match self.action.values[const { action_key("eventValue") }] {
                Some(raw) => {
                    let sent = json::text(raw).unwrap_or_default();
                    let number = values::plain_number(sent.trim());
                    // 0 stands for what is no number, as in the Node tool's tables.
                    if number.is_none() && !sent.is_empty() {
                        misfits.push(Misfit { column: slot.column, sent: Some(raw) });
                    }
                    text = number.map_or_else(|| "0".to_owned(), Cow::into_owned);
                    Value::Text(&text)
                }
                None => Value::Text("0"),
            },
            // Its column takes any text.
            Source::ActionId => {
                return cells.display(format_args!("{}_{}", self.id, self.index));
            }
            Source::Instant => instant(Some(self.at)),
            Source::CustomVariables => match (self.action.custom_variables, self.visit_variables) {
                (None, []) => Value::Object(&[]),
                (own, of_visit) => {
                    members = custom::variables_of_both(own, of_visit);
                    Value::Object(&members)
                }
            },
            Source::CustomDimensions => match self.dimensions {
                none if none.is_empty() => Value::Object(&[]),
                all => {
                    members = custom::dimensions(all);
                    Value::Object(&members)
                }
            },
            Source::ActionDimensions => match &self.action.dimensions {
                none if none.is_empty() => Value::Object(&[]),
                own => {
                    members = custom::dimensions(own);
                    Value::Object(&members)
                }
            },
            Source::Item(_) => {
                let item = self.item.zip(slot.key);
                sent(item.and_then(|((_, item), key)| item.values[key]))
            }
            Source::Place => self.item.map_or(Value::Null, |(place, _)| {
                Value::Integer(i64::try_from(place).unwrap_or(i64::MAX))
            }),
            Source::ItemExtra => {
                let none = Members::new();
                let unknown = self.item.map_or(&none, |(_, item)| &item.unknown);
                match extra(unknown, misfits) {
                    Some(extra) => {
                        text = extra;
                        Value::Jsonb(&text)
                    }
                    None => Value::Null,
                }
            }
            Source::Dimension(number) => sent(self.dimensions.get(&number).copied()),
            Source::Extra => match extra(&self.action.unknown, misfits) {
                Some(extra) => {
                    text = extra;
                    Value::Jsonb(&text)
                }
                None => Value::Null,
            },
            // Of the visit.
            _ => Value::Null,
        };
        put(cells, slot, value, misfits);
    }
}
