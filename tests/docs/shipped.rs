//! `config/outboxd.toml`, generated from the settings.

use outboxd::config::{SettingInfo, Unset};

use super::configuration::wrap;

const HEAD: &str = "\
# Every setting of outboxd, with its default and the reason for it. A setting without a default is
# commented out. This file is generated from the settings, as is docs/configuration.md.
#
# Settings come from flags (`--set dispatch.max_in_flight=64`) over the environment over this file
# over the defaults. In the environment a setting is OUTBOXD_ and its name, with two underscores for
# the dot: OUTBOXD_DISPATCH__MAX_IN_FLIGHT=64. Some settings have other names there, which people
# already use; each is listed with its setting.
#
# Each secret can be read from a file, which `uri_file` and the like name, or MONGODB_URI_FILE and
# the like. `outboxd run` reads these files every 5 s, and the files of creds, tls_… and the URI's
# TLS. When the content of one changes, outboxd drains, reads all settings again and reconnects,
# without a restart. If it can't use the new content, it logs a warning and keeps the old one.
#
# `outboxd config print` shows each setting, its value and its source, with secrets masked.
";

/// The whole file.
pub(super) fn file(settings: &[SettingInfo]) -> String {
    let (mut file, mut section) = (HEAD.to_owned(), "");
    for setting in settings {
        let (in_section, name) = setting.place();
        if in_section != section {
            file += &format!("\n[{in_section}]\n");
            section = in_section;
        } else {
            file.push('\n');
        }

        let mut text = setting.description();
        if setting.is_secret {
            text += &format!(" A secret; `{name}_file` names a file that holds it.");
        }
        file += &wrap(&text, "# ");
        file += "\n";

        file += &match (&setting.unset, setting.example) {
            (Unset::Default(value), None) => format!("{name} = {value}\n"),
            (_, Some(value)) => format!("# {name} = {value}\n"),
            (_, None) => panic!("{} has neither a default nor an example", setting.key),
        };
    }
    file
}
