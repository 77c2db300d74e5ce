//! Stored credentials: a foreign server has the URL of a Matomo, a user mapping the token.

use std::ffi::{CStr, CString};

use pgrx::pg_sys;
use pgrx::pg_sys::SysCacheIdentifier::{FOREIGNSERVEROID, USERMAPPINGUSERSERVER};
use pgrx::prelude::*;

use crate::config::options::{Options, TOKEN};
use crate::error::{Error, Result, SiteError};
use crate::matomo::http::endpoint::Endpoint;
use crate::matomo::http::token::Token;
use crate::pg::encoding;
use crate::pg::spi::{one, query};

/// The foreign-data wrapper of our servers.
const WRAPPER: &CStr = c"matomo";

/// The options of a server and a user mapping.
pub struct Credentials {
    pub endpoint: Endpoint,
    pub token: Token,
    pub options: Options,
    /// Changes whenever the server or the mapping is altered or recreated.
    pub version: String,
}

impl Credentials {
    /// Reads the current user's credentials for the server of a registered site.
    ///
    /// # Errors
    /// Those of [`Credentials::of_server`]; that of a missing server names the site too.
    pub fn of_site(id: i32, server: &str) -> Result<Credentials> {
        Credentials::of_server(server).map_err(|error| match error {
            Error::Site(SiteError::NoServer { name, .. }) => {
                SiteError::NoServer { name, site: Some(id) }.into()
            }
            error => error,
        })
    }

    /// Reads the current user's credentials for a server.
    ///
    /// # Errors
    /// [`SiteError::NoServer`] and its siblings.
    pub fn of_server(name: &str) -> Result<Credentials> {
        let c_name = CString::new(name).unwrap_or_default();
        // SAFETY: main thread, within a transaction; the structures live in the current memory
        // context.
        unsafe {
            let server = pg_sys::GetForeignServerByName(c_name.as_ptr(), true).as_ref();
            let server =
                server.ok_or_else(|| SiteError::NoServer { name: name.to_owned(), site: None })?;
            let wrapper = &*pg_sys::GetForeignDataWrapper(server.fdwid);
            if CStr::from_ptr(wrapper.fdwname) != WRAPPER {
                return Err(SiteError::NotOurServer(name.to_owned()).into());
            }
            if !has_usage(server.serverid)? {
                return Err(SiteError::ServerPrivilege {
                    server: name.to_owned(),
                    user: user_name(),
                }
                .into());
            }
            let user = pg_sys::GetUserId();
            let mapping_of = |user| version(USERMAPPINGUSERSERVER, user, Some(server.serverid));
            let own = mapping_of(user);
            let of_user = own.is_some().then(user_name);
            let Some(mapping) = own.or_else(|| mapping_of(pg_sys::Oid::INVALID)) else {
                return Err(
                    SiteError::NoMapping { server: name.to_owned(), user: user_name() }.into()
                );
            };
            let version = format!(
                "{}:{} {mapping}",
                server.serverid.to_u32(),
                version(FOREIGNSERVEROID, server.serverid, None).unwrap_or_default()
            );
            let of_mapping = options((*pg_sys::GetUserMapping(user, server.serverid)).options);
            let token = of_mapping.into_iter().find(|(name, _)| name == TOKEN);
            let no_token = || SiteError::NoToken { server: name.to_owned(), user: of_user };
            let (_, token) = token.ok_or_else(no_token)?;
            let options = Options::read(&options(server.options))?;
            let url = options.url.as_deref().ok_or(SiteError::MissingOption("url"))?;
            let endpoint = Endpoint::parse(url)?;
            Ok(Credentials { endpoint, token: Token::new(&token), options, version })
        }
    }
}

/// The name of the current user.
pub fn user_name() -> String {
    // SAFETY: main thread, within a transaction; the user exists.
    unsafe {
        let name = pg_sys::GetUserNameFromId(pg_sys::GetUserId(), true);
        if name.is_null() {
            String::new()
        } else {
            encoding::from_server(CStr::from_ptr(name).to_bytes())
        }
    }
}

fn has_usage(server: pg_sys::Oid) -> Result<bool> {
    let sql = "SELECT pg_catalog.has_server_privilege($1, 'USAGE')";
    let has: Option<bool> = Spi::connect_mut(|client| one(query(client, sql, &[server.into()])?))?;
    Ok(has.unwrap_or(false))
}

/// The ctid of a catalog row and the transaction that wrote it; `None` if there is no such row.
///
/// # Safety
/// Main thread, within a transaction; the cache has one or two keys, all OIDs.
unsafe fn version(
    cache: pg_sys::SysCacheIdentifier::Type,
    key: pg_sys::Oid,
    other_key: Option<pg_sys::Oid>,
) -> Option<String> {
    // SAFETY: the caller's promise; the row is read before it is released.
    unsafe {
        let cache = cache as i32;
        let tuple = match other_key {
            None => pg_sys::SearchSysCache1(cache, key.into()),
            Some(other) => pg_sys::SearchSysCache2(cache, key.into(), other.into()),
        };
        let row = tuple.as_ref()?;
        let pg_sys::ItemPointerData { ip_blkid, ip_posid } = row.t_self;
        let block = u32::from(ip_blkid.bi_hi) << 16 | u32::from(ip_blkid.bi_lo);
        let writer = (*row.t_data).t_choice.t_heap.t_xmin.into_inner();
        pg_sys::ReleaseSysCache(tuple);
        Some(format!("{block},{ip_posid},{writer}"))
    }
}

/// Converts a list of options to text.
///
/// # Safety
/// Main thread; the list contains only `DefElem` nodes.
unsafe fn options(list: *mut pg_sys::List) -> Vec<(String, String)> {
    // SAFETY: the caller's promise.
    unsafe {
        let Some(list) = list.as_ref() else { return Vec::new() };
        let text =
            |text: *const std::ffi::c_char| CStr::from_ptr(text).to_string_lossy().into_owned();
        (0..list.length.unsigned_abs() as usize)
            .map(|n| (*list.elements.add(n)).ptr_value.cast::<pg_sys::DefElem>())
            .map(|option| (text((*option).defname), text(pg_sys::defGetString(option))))
            .collect()
    }
}
