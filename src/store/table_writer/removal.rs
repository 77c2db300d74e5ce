//! Removes all rows of visits. SPI only.

use pgrx::prelude::*;

use crate::error::Result;
use crate::pg::local_settings::{LocalSettings, PLANNED_ANEW};
use crate::pg::spi::{query, spi, write_once};
use crate::store::destination::Destination;
use crate::store::table_writer::TableWriter;

impl TableWriter {
    /// Removes all rows of visits. First finds the times of these visits: partitions of other times may be
    /// read-only.
    ///
    /// # Errors
    /// Only internal ones.
    pub fn remove(&self, site: i32, visits: &[i64]) -> Result<()> {
        let Destination { name, layout, .. } = &self.destination;
        let [site_type, visit_type] =
            ["idsite", "idvisit"].map(|column| self.destination.type_of(column));
        let time = layout.kind.time();
        let which = format!(
            "{name} AS d WHERE d.idsite OPERATOR(pg_catalog.=) \
             ANY ($1::pg_catalog.text[]::{site_type}[]) AND d.idvisit OPERATOR(pg_catalog.=) \
             ANY ($2::pg_catalog.text[]::{visit_type}[])"
        );
        let at = format!("pg_catalog.date_part('epoch', d.{time})");
        let span = format!(
            "SELECT pg_catalog.min({at}), pg_catalog.max({at}), \
             pg_catalog.bool_or(d.{time} IS NULL) FROM {which}"
        );
        let within = format!(
            "DELETE FROM {which} AND d.{time} OPERATOR(pg_catalog.>=) pg_catalog.to_timestamp($3) \
             AND d.{time} OPERATOR(pg_catalog.<=) pg_catalog.to_timestamp($4)"
        );
        let anywhere = format!("DELETE FROM {which}");
        let visits: Vec<_> = visits.iter().map(i64::to_string).collect();
        let mut args = vec![vec![site.to_string()].into(), visits.into()];
        Spi::connect_mut(|client| {
            let found = {
                let _planned_anew = LocalSettings::of(&[PLANNED_ANEW]);
                query(client, &span, &args)?.first().get_three::<f64, f64, bool>().map_err(spi)?
            };
            let sql = match found {
                (_, _, None) => return Ok(()),
                (Some(from), Some(to), Some(false)) => {
                    args.extend([from.floor().into(), to.ceil().into()]);
                    &within
                }
                _ => &anywhere,
            };
            write_once(client, sql, &args).map(drop)
        })
    }
}
