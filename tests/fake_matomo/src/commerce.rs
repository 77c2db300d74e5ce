//! Shop data: items, products on show, and the totals of orders and carts.

use crate::action::Kind;

/// A line of an order or of a cart.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub sku: String,
    pub name: String,
    /// The first is also `itemCategory`; an empty list is sent as `[]`.
    pub categories: Vec<String>,
    /// In cents.
    pub price: i64,
    pub quantity: i64,
}

/// The product that a page shows (`setEcommerceView`). Empty fields are not sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Product {
    pub sku: String,
    pub name: String,
    pub categories: Vec<String>,
    /// In cents.
    pub price: i64,
}

/// The totals of an order or a cart, in cents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    pub revenue: i64,
    pub subtotal: i64,
    pub tax: i64,
    pub shipping: i64,
    pub discount: i64,
    /// Pieces, not lines.
    pub items: i64,
}

impl Kind {
    /// The items of an order or a cart, with its totals.
    pub fn sale(&self) -> Option<(&[Item], Sums)> {
        let (items, discount) = match self {
            Kind::Order { items, discount, .. } => (items, *discount),
            Kind::Cart { items } => (items, 0),
            _ => return None,
        };
        let revenue = items.iter().map(|i| i.price * i.quantity).sum::<i64>() - discount;
        let count = items.iter().map(|i| i.quantity).sum();
        let sums =
            Sums { revenue, subtotal: revenue, tax: 150, shipping: 0, discount, items: count };
        Some((items, sums))
    }
}

/// Cents as PHP writes the amount: 266.35, 1.5, 264.
pub fn money(cents: i64) -> String {
    let (sign, cents) = if cents < 0 { ("-", -cents) } else { ("", cents) };
    let text = format!("{sign}{}.{:02}", cents / 100, cents % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
