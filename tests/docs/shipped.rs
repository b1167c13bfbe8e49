//! `config/outboxd.toml`, generated from the settings.

use outboxd::config::{SettingInfo, Unset};

use super::configuration::wrap;

const HEAD: &str = "\
# Every setting of outboxd, with its default and the reason for it. A setting without a default is
# commented out. This file is generated from the settings, as is docs/configuration.md.
#
# A flag (`--set dispatch.max_in_flight=64`) overrides the environment, which overrides this file,
# which overrides the default. The variable of a setting is OUTBOXD_ and its name, with two
# underscores for the dot: OUTBOXD_DISPATCH__MAX_IN_FLIGHT=64. Some settings have further variables,
# which people already use; they are listed with the setting.
#
# To read a secret from a file, add `_file` to its name and give the path: `uri_file`, or
# MONGODB_URI_FILE in the environment. Every 5 s, `outboxd run` reads these files, those of `creds`
# and `tls_…`, and the TLS files in the URI. If one has changed, outboxd tries the new content, then
# drains and reconnects with it, without a restart. If the new content does not work, it logs a
# warning and keeps the old one.
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
