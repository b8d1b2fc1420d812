//! Operations on the platform of a data directory: keys, rules, consent, dead letters, models, rollouts.

use std::process::ExitCode;

use bus::{DeadLetter, Positions};
use bytes::Bytes;
use events::{ConsentTier, ModelVersion, RolloutId, topics};
use model_registry::client::RegistryClient;
use model_registry::rollout::Rollout;
use serde::Serialize;
use service::api_keys::Scope;
use service::consent::ConsentStore;
use service::repositories::RepositoryStore;

use crate::cli::{
    Common, ConsentCommand, DeadLettersCommand, KeysCommand, ListArgs, ModelsCommand, RepositoriesCommand,
    RolloutCommand,
};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::platform::{DoorAddresses, allow_repository};
use crate::settings::Settings;
use crate::table::{print, print_json, print_rows};

/// Most dead letters that one command looks at.
const DEAD_LETTERS: usize = 10_000;

/// Opens the data of an existing platform, running or not.
pub(crate) async fn open(common: &Common) -> Result<Foundation, Failure> {
    let settings = Settings::load(common, &[])?;
    if !settings.data_dir.join("flywheel.sqlite").exists() {
        return Err(Failure::refused(format!(
            "{} holds no platform; name its directory with --data-dir, or start one with `flywheel up`",
            settings.data_dir.display()
        )));
    }
    let data = DataDir::open(&settings.data_dir)?;
    Foundation::open(&settings, &data).await
}

/// The doors of the platform that runs on this data, if one does.
pub(crate) fn doors(data: &DataDir) -> Option<DoorAddresses> {
    let text = std::fs::read_to_string(data.doors()).ok()?;
    serde_json::from_str(&text).ok()
}

fn registry(foundation: &Foundation) -> Result<RegistryClient, Failure> {
    let address = match doors(&foundation.data) {
        Some(doors) => doors.registry.to_string(),
        None => foundation.settings.registry.http.listen.clone(),
    };
    crate::services::registry_client(foundation, &address)
}

fn unreachable(error: &model_registry::client::ClientError) -> Failure {
    Failure::refused(format!("{error}; is `flywheel up` running on this data directory?"))
}

pub(crate) async fn keys(common: &Common, command: &KeysCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let tenant = &foundation.settings.tenant;
    match command {
        KeysCommand::Create { name, scopes, list } => {
            let scopes: Vec<Scope> =
                scopes.iter().map(|scope| scope.parse()).collect::<Result<_, _>>().map_err(Failure::refuse)?;
            let (key, secret) = foundation.api_keys.create(tenant, name, &scopes).await.map_err(Failure::refuse)?;
            if list.json {
                print_json(
                    &serde_json::json!({ "id": key.id, "name": key.name, "scopes": key.scopes, "key": secret.expose_secret() }),
                )?;
            } else {
                print(secret.expose_secret())?;
            }
        }
        KeysCommand::List(list) => {
            let keys = foundation.api_keys.list(tenant).await?;
            if list.json {
                print_json(&keys)?;
            } else {
                let rows = keys
                    .iter()
                    .map(|key| {
                        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
                        let state = key.revoked_at.map_or("valid".to_owned(), |at| format!("revoked {at}"));
                        vec![key.id.clone(), key.name.clone(), scopes.join(" "), key.created_at.to_string(), state]
                    })
                    .collect();
                print_rows(&["id", "name", "scopes", "made", "state"], rows, "no keys")?;
            }
        }
        KeysCommand::Revoke { id } => {
            if !foundation.api_keys.revoke(tenant, id).await? {
                return Err(Failure::refused(format!("there is no valid key {id}; `flywheel keys list` names them")));
            }
            print(&format!("revoked {id}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn repositories(common: &Common, command: &RepositoriesCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    match command {
        RepositoriesCommand::Allow { repository, audience } => {
            allow_repository(&foundation, repository, audience).await?;
            print(&format!("{repository} may be trained on; what is learned from it is served to {audience}"))?;
        }
        RepositoriesCommand::List(list) => {
            let rules = RepositoryStore::new(foundation.pool.clone()).list(&foundation.settings.tenant).await?;
            if list.json {
                print_json(&rules)?;
            } else {
                let rows = rules
                    .iter()
                    .map(|rule| {
                        let trainable = if rule.trainable { "yes" } else { "no" };
                        vec![
                            rule.repository.clone(),
                            rule.audience.to_string(),
                            trainable.to_owned(),
                            rule.updated_at.to_string(),
                        ]
                    })
                    .collect();
                let header = ["repository", "audience", "trainable", "since"];
                print_rows(&header, rows, "no rules: nothing is trained on (flywheel repositories allow NAME)")?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn consent(common: &Common, command: &ConsentCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let store = ConsentStore::new(foundation.pool.clone());
    let tier_of = |text: &str| match ConsentTier::from_symbol(text) {
        ConsentTier::Unknown => Err(Failure::refused(format!("\"{text}\" is no tier; expected none, usage or code"))),
        tier => Ok(tier),
    };
    let tenant = &foundation.settings.tenant;
    match command {
        ConsentCommand::Set { person, tier } => {
            let pseudonym = foundation.secret.person_pseudonym(person);
            let ids = foundation.ids("consent command");
            let effective = store.decide(ids.as_ref(), tenant, &pseudonym, tier_of(tier)?, foundation.now()).await?;
            print(&format!("effective tier: {effective}"))?;
        }
        ConsentCommand::Ceiling { tier } => {
            store.set_ceiling(tenant, tier_of(tier)?).await?;
            print(&format!("ceiling: {tier}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A dead letter as it is listed: nothing of its content.
#[derive(Debug, Serialize)]
struct ListedDeadLetter {
    id: String,
    reason: String,
    step: String,
    topic: String,
    partition: u32,
    position: String,
    key: String,
    failed_at: String,
    can_be_redriven: bool,
}

async fn read_dead_letters(foundation: &Foundation) -> Result<Vec<(ListedDeadLetter, DeadLetter)>, Failure> {
    let ends = foundation.bus.end_positions(topics::DEAD_LETTERS).await?;
    let mut tail = foundation.bus.tail(topics::DEAD_LETTERS, "dead-letters command", Positions::default()).await?;
    let mut letters = Vec::new();
    while letters.len() < DEAD_LETTERS && !tail.positions().reached(&ends) {
        for record in tail.next(500, std::time::Duration::from_millis(200)).await? {
            let Ok(letter) = DeadLetter::decode(&record.value) else { continue };
            let listed = ListedDeadLetter {
                id: format!("{}:{}", record.partition, record.position),
                reason: letter.reason.clone(),
                step: letter.step.clone(),
                topic: letter.topic.clone(),
                partition: letter.partition,
                position: letter.position.to_string(),
                key: letter.key.to_string(),
                failed_at: letter.partition_time.to_string(),
                can_be_redriven: letter.redrive().is_some(),
            };
            letters.push((listed, letter));
        }
    }
    drop(tail);
    // A command is no reader that retention has to wait for.
    foundation.bus.forget_reader(topics::DEAD_LETTERS, "dead-letters command").await?;
    Ok(letters)
}

pub(crate) async fn dead_letters(common: &Common, command: &DeadLettersCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let letters = read_dead_letters(&foundation).await?;
    let unknown =
        |id: &str| Failure::refused(format!("there is no dead letter {id}; `flywheel dead-letters list` names them"));
    match command {
        DeadLettersCommand::List(list) => {
            let listed: Vec<&ListedDeadLetter> = letters.iter().map(|(listed, _)| listed).collect();
            if list.json {
                print_json(&listed)?;
            } else {
                let rows = listed
                    .iter()
                    .map(|letter| {
                        vec![letter.id.clone(), letter.step.clone(), letter.reason.clone(), letter.failed_at.clone()]
                    })
                    .collect();
                print_rows(&["id", "step", "reason", "failed at"], rows, "no dead letters")?;
            }
        }
        DeadLettersCommand::Show { id, list } => {
            let (listed, _) = letters.iter().find(|(listed, _)| listed.id == *id).ok_or_else(|| unknown(id))?;
            if list.json {
                print_json(listed)?;
            } else {
                let value = serde_json::to_value(listed)?;
                let rows = value.as_object().into_iter().flatten();
                let rows = rows.map(|(name, value)| vec![name.clone(), value.to_string()]).collect();
                print_rows(&["field", "value"], rows, "")?;
            }
        }
        DeadLettersCommand::Redrive { id } => {
            let chosen: Vec<_> = letters.iter().filter(|(listed, _)| id == "all" || listed.id == *id).collect();
            if chosen.is_empty() && id != "all" {
                return Err(unknown(id));
            }
            let mut sent = 0;
            for (_, letter) in chosen {
                if let Some(record) = letter.redrive() {
                    release(&foundation, letter).await?;
                    for result in foundation.bus.publish(&letter.topic, vec![record]).await {
                        result?;
                    }
                    sent += 1;
                }
            }
            print(&format!("sent through again: {sent}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A key that was poisoned accepts records again.
async fn release(foundation: &Foundation, letter: &DeadLetter) -> Result<(), Failure> {
    let subject = letter.key.to_string();
    foundation.bus.publish_control(&letter.topic, bus::control::RELEASE_KEY, &subject, Bytes::new()).await?;
    Ok(())
}

pub(crate) async fn models(common: &Common, command: &ModelsCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let registry = registry(&foundation)?;
    let model = &foundation.settings.model;
    match command {
        ModelsCommand::List(list) => {
            let versions = registry.list_versions(model).await.map_err(|error| unreachable(&error))?;
            if list.json {
                print_json(&versions)?;
            } else {
                let rows = versions
                    .iter()
                    .map(|version| {
                        vec![
                            version.version.to_string(),
                            version.method.clone(),
                            version.parent.map_or("-".to_owned(), |parent| parent.to_string()),
                            version.registered_at.to_string(),
                            version.promoted_at.map_or("-".to_owned(), |at| at.to_string()),
                            version.artifact_digest.to_string().chars().take(16).collect(),
                        ]
                    })
                    .collect();
                print_rows(
                    &["version", "method", "parent", "registered", "promoted", "artifact"],
                    rows,
                    "no versions",
                )?;
            }
        }
        ModelsCommand::Show { version, list } => {
            let version =
                registry.get_version(model, ModelVersion(*version)).await.map_err(|error| unreachable(&error))?;
            show(&version, list)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(value: &impl Serialize, list: &ListArgs) -> Result<(), Failure> {
    if list.json {
        return print_json(value);
    }
    let value = serde_json::to_value(value)?;
    let rows = value.as_object().into_iter().flatten();
    let rows = rows
        .map(|(name, value)| vec![name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)])
        .collect();
    print_rows(&["field", "value"], rows, "")
}

fn print_rollout(rollout: &Rollout, list: &ListArgs) -> Result<(), Failure> {
    show(rollout, list)
}

pub(crate) async fn rollout(common: &Common, command: &RolloutCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let registry = registry(&foundation)?;
    let id = |text: &str| text.parse::<RolloutId>().map_err(Failure::refuse);
    let plain = ListArgs { json: false };
    match command {
        RolloutCommand::List(list) => {
            let rollouts =
                registry.list_rollouts(Some(&foundation.settings.model)).await.map_err(|error| unreachable(&error))?;
            if list.json {
                print_json(&rollouts)?;
            } else {
                let rows = rollouts
                    .iter()
                    .map(|rollout| {
                        vec![
                            rollout.rollout_id.to_string(),
                            rollout.candidate.to_string(),
                            rollout.baseline.to_string(),
                            rollout.state.to_string(),
                            rollout.created_at.to_string(),
                        ]
                    })
                    .collect();
                print_rows(&["rollout", "candidate", "current", "state", "created"], rows, "no rollouts")?;
            }
        }
        RolloutCommand::Show { id: text, list } => {
            let (rollout, evidence) = registry.get_rollout(id(text)?).await.map_err(|error| unreachable(&error))?;
            show(&serde_json::json!({ "rollout": rollout, "evidence": evidence }), list)?;
        }
        RolloutCommand::Approve { id: text, by } => {
            let rollout =
                registry.approve_rollout(id(text)?, by, "approved").await.map_err(|error| unreachable(&error))?;
            print_rollout(&rollout, &plain)?;
        }
        RolloutCommand::Abort { id: text, by } => {
            let rollout =
                registry.abort_rollout(id(text)?, by, "aborted").await.map_err(|error| unreachable(&error))?;
            print_rollout(&rollout, &plain)?;
        }
        RolloutCommand::Rollback { id: text, by } => {
            let rollout =
                registry.rollback_rollout(id(text)?, by, "rolled back").await.map_err(|error| unreachable(&error))?;
            print_rollout(&rollout, &plain)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
