//! Messages exactly as Matomo 5.3 and 4.15 send them, in the language of the request or of the
//! token's user. Without a translation here they are in English, as with Matomo.

use crate::answer::Answer;
use crate::knobs::Knobs;
use crate::params::Params;

/// The messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saying {
    /// No view access to this site.
    NoView(String),
    WrongToken,
    LockedOut,
    /// `live_query_max_execution_time`.
    QueryTooLong,
    /// `login_allowlist_ip`.
    AddressRefused,
    VisitsLogOff,
    DatabaseGone,
}

/// The language of a request's answer.
pub fn language<'a>(params: &'a Params, knobs: &'a Knobs) -> &'a str {
    params.filled("language").unwrap_or(&knobs.language)
}

/// The answer with this message.
pub fn answer(saying: &Saying, params: &Params, knobs: &Knobs) -> Answer {
    let language = language(params, knobs);
    let status = match saying {
        Saying::NoView(_) | Saying::WrongToken if knobs.matomo_4 => 200,
        Saying::NoView(_) | Saying::WrongToken | Saying::AddressRefused => 401,
        Saying::LockedOut => 500,
        Saying::QueryTooLong | Saying::VisitsLogOff | Saying::DatabaseGone => 200,
    };
    Answer::error(status, &words(saying, language, knobs.matomo_4))
}

fn words(saying: &Saying, language: &str, matomo_4: bool) -> String {
    let text = match (saying, language) {
        (Saying::NoView(site), _) => return no_view(site, language),
        (Saying::WrongToken, _) if matomo_4 => return no_view("1", language),
        (Saying::WrongToken, _) => {
            "Unable to authenticate with the provided token. It is either invalid or expired."
        }
        (Saying::LockedOut, "fr") => {
            "Trop d'échecs de connexion. Veuillez patienter puis essayez de vous connecter à nouveau plus tard."
        }
        (Saying::LockedOut, _) => {
            "Too many failed logins. Please wait and try logging in again later."
        }
        (Saying::QueryTooLong, "fr") => "Impossible d'exécuter la requête à temps.  ",
        (Saying::QueryTooLong, "de") => "Die Ausführung der Abfrage dauerte zu lange.  ",
        (Saying::QueryTooLong, _) if matomo_4 => {
            "The query took too long to execute.  Please try again.  "
        }
        (Saying::QueryTooLong, _) => {
            "Could not run the query in time.  Please try again. Get in touch with "
        }
        (Saying::AddressRefused, _) => {
            "You cannot use this Matomo as your IP 127.0.0.1 is not allowed."
        }
        (Saying::VisitsLogOff, _) => "Visits log is deactivated in website settings. ",
        (Saying::DatabaseGone, _) => {
            "SQLSTATE[HY000]: General error: 2006 MySQL server has gone away"
        }
    };
    text.to_owned()
}

fn no_view(site: &str, language: &str) -> String {
    match language {
        "fr" => format!(
            "Vous ne pouvez pas accéder à cette ressource car elle nécessite l'accès 'view' pour le site id = {site}."
        ),
        "de" => format!(
            "Sie haben keinen Zugriff auf diese Ressource, weil sie 'view' Zugriff für die Webseite id = {site} benötigt."
        ),
        "es" => format!(
            "No puede acceder a este recurso en tanto necesita del acceso a 'view' para el sitio de internet id = {site}."
        ),
        "ru" => format!(
            "Вы не можете получить доступ к этому ресурсу, так как он требует прав 'view' к сайту id = {site}."
        ),
        _ => format!(
            "You can't access this resource as it requires 'view' access for the website id = {site}."
        ),
    }
}
