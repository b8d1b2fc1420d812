//! Operations on the platform of a data directory: keys, rules, consent, dead letters, models, rollouts.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::{DeadLetter, Positions};
use bytes::Bytes;
use events::{ConsentTier, ModelVersion, RolloutId, topics};
use model_registry::lineage::VersionLineage;
use model_registry::rollout::RolloutStep;
use model_registry::{Registry, RegistryDeps, RegistryError, Version};
use serde::Serialize;
use serde_json::{Value, json};
use service::api_keys::Scope;
use service::consent::ConsentStore;
use service::keys::KeyFile;
use service::repositories::RepositoryStore;

use crate::cli::{
    Common, ConsentCommand, DeadLettersCommand, DecisionArgs, KeysCommand, ListArgs, ModelsCommand,
    RepositoriesCommand, RolloutCommand,
};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::foundation::Foundation;
use crate::report::{Form, check_writable};
use crate::settings::Settings;
use crate::table::{fields, print, print_fields, print_json, print_rows};
use crate::visible::visible;
use crate::{rules, version_report};

/// Most dead letters that one command looks at.
const DEAD_LETTERS: usize = 10_000;
/// How long that may take.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// Opens the data of an existing platform, running or not.
pub(crate) async fn open(common: &Common) -> Result<Foundation, Failure> {
    open_platform(&Settings::load(common, &[])?).await
}

/// The same, of a configuration that was read already.
pub(crate) async fn open_platform(settings: &Settings) -> Result<Foundation, Failure> {
    must_exist(settings)?;
    let data = DataDir::open(&settings.data_dir)?;
    data.take_temporary_files();
    Foundation::open_to_command(settings, &data).await
}

/// Refuses a directory that holds no platform.
pub(crate) fn must_exist(settings: &Settings) -> Result<(), Failure> {
    // A server's database is elsewhere; what wraps its keys is here, or where the configuration says.
    let is_server = settings.database.kind.is_server();
    let made_first = settings.data_dir.join(if is_server { "keys/master.key" } else { "flywheel.sqlite" });
    let is_elsewhere = is_server && settings.keys.master_key_file.is_some();
    if !is_elsewhere && !made_first.exists() {
        return Err(Failure::refused(format!(
            "{} holds no platform; name its directory with --data-dir, or start one with `flywheel up`",
            settings.data_dir.display()
        )));
    }
    Ok(())
}

/// The registry of this data. Changes are compare-and-set in the database; a registry that runs follows within moments.
pub(crate) fn registry(foundation: &Foundation) -> Result<Registry, Failure> {
    let deps = RegistryDeps {
        pool: foundation.pool.clone(),
        clock: Arc::clone(&foundation.clock),
        ids: foundation.ids("registry command"),
        artifacts: Arc::clone(&foundation.artifacts),
    };
    Registry::new(deps, foundation.settings.registry.rollout.clone()).map_err(Failure::refuse)
}

/// What the database says is no fault of whoever asked.
fn refused(error: RegistryError) -> Failure {
    match error {
        RegistryError::Database(_) | RegistryError::Unreadable { .. } => Failure::from(error),
        error => Failure::refuse(error),
    }
}

pub(crate) async fn keys(common: &Common, command: &KeysCommand) -> Result<ExitCode, Failure> {
    if let KeysCommand::Master { file } = command {
        let is_new = !file.exists();
        KeyFile::open(file).map_err(Failure::refuse)?;
        let made = if is_new { "made" } else { "is there already, and stays:" };
        print(&format!("{made} {}; keep a copy apart from the data", file.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let foundation = open(common).await?;
    let tenant = &foundation.settings.tenant;
    match command {
        KeysCommand::Create { name, scopes, list } => {
            let scopes: Vec<Scope> =
                scopes.iter().map(|scope| scope.parse()).collect::<Result<_, _>>().map_err(Failure::refuse)?;
            let (key, secret) = foundation.api_keys.create(tenant, name, &scopes).await.map_err(Failure::refuse)?;
            if list.json {
                let secret = secret.expose_secret();
                print_json(&json!({ "id": key.id, "name": key.name, "scopes": key.scopes, "key": secret }))?;
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
        // Needs no platform, and was done above.
        KeysCommand::Master { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn repositories(common: &Common, command: &RepositoriesCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let ids = foundation.ids("repositories command");
    match command {
        RepositoriesCommand::Allow { repository, audience } => {
            rules::allow(&foundation, ids.as_ref(), repository, audience).await?;
            print(&format!("{repository} may be trained on; what is learned from it is served to {audience}"))?;
        }
        RepositoriesCommand::Deny { repository } => {
            rules::deny(&foundation, ids.as_ref(), repository).await?;
            print(&format!("{repository} may not be trained on; a rule that names less of it still goes first"))?;
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
            let ids = foundation.ids("consent command");
            store.set_ceiling(ids.as_ref(), tenant, tier_of(tier)?, foundation.now()).await?;
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

/// PARTITION:POSITION, without the zeros that make positions sort as text.
fn letter_id(partition: u32, position: &str) -> String {
    let digits = position.trim_start_matches('0');
    format!("{partition}:{}", if digits.is_empty() { "0" } else { digits })
}

async fn read_dead_letters(foundation: &Foundation) -> Result<Vec<(ListedDeadLetter, DeadLetter)>, Failure> {
    let ends = foundation.bus.end_positions(topics::DEAD_LETTERS).await?;
    let mut tail = foundation.bus.look(topics::DEAD_LETTERS, Positions::default()).await?;
    let (started, mut letters) = (Instant::now(), Vec::new());
    while letters.len() < DEAD_LETTERS && !tail.positions().reached(&ends) {
        if started.elapsed() > LONGEST_LOOK {
            return Err(Failure::refused("the dead letters can not be read in time"));
        }
        for record in tail.next(500, Duration::from_millis(200)).await? {
            let Ok(letter) = DeadLetter::decode(&record.value) else { continue };
            let listed = ListedDeadLetter {
                id: letter_id(record.partition, &record.position.to_string()),
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
    // Only a partition is in order by itself.
    letters.sort_by_key(|(_, letter)| letter.partition_time);
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
                print_fields(&serde_json::to_value(listed)?)?;
            }
        }
        DeadLettersCommand::Redrive { id } => {
            let chosen: Vec<_> = letters.iter().filter(|(listed, _)| id == "all" || listed.id == *id).collect();
            if id != "all" {
                let (_, letter) = chosen.first().ok_or_else(|| unknown(id))?;
                if letter.redrive().is_none() {
                    return Err(Failure::refused(format!(
                        "dead letter {id} kept no content, so nothing can be sent again"
                    )));
                }
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
    let (tenant, model) = (&foundation.settings.tenant, &foundation.settings.model);
    match command {
        ModelsCommand::List(list) => {
            let versions = match registry.versions(tenant, model).await {
                Err(RegistryError::UnknownModel { .. }) => Vec::new(),
                versions => versions.map_err(refused)?,
            };
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
        ModelsCommand::Show { version, report, list } => {
            let report = match report {
                Some(path) => {
                    let form = Form::of(path)?;
                    check_writable(path)?;
                    Some((path, form))
                }
                None => None,
            };
            let version = ModelVersion(*version);
            let found = registry.version(tenant, model, version).await.map_err(refused)?;
            if let Some((path, form)) = report {
                version_report::write(&found, form, path)?;
                if !list.json {
                    let place = visible(&path.display().to_string());
                    print(&format!("what the gate found of version {version} is in {place}"))?;
                    return Ok(ExitCode::SUCCESS);
                }
            }
            let chain = registry.lineage(tenant, model, version).await.map_err(refused)?;
            show_version(&found, &chain, list)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A version and where it comes from.
fn show_version(version: &Version, chain: &[VersionLineage], list: &ListArgs) -> Result<(), Failure> {
    let mut value = serde_json::to_value(version)?;
    if list.json {
        if let Some(fields) = value.as_object_mut() {
            fields.insert("lineage".to_owned(), serde_json::to_value(chain)?);
        }
        return print_json(&value);
    }
    let manifest = value.as_object_mut().and_then(|fields| fields.remove("manifest")).unwrap_or_default();
    let mut rows = fields(&value);
    rows.extend(manifest.get("files").and_then(Value::as_array).into_iter().flatten().map(file_row));
    rows.extend(lineage_rows(chain));
    print_rows(&["field", "value"], rows, "")
}

/// A file of a model's manifest: its name, and how much it is.
fn file_row(file: &Value) -> Vec<String> {
    let path = file.get("path").and_then(Value::as_str).unwrap_or_default();
    let bytes = file.get("bytes").and_then(Value::as_u64).unwrap_or_default();
    vec![format!("file {path}"), format!("{bytes} bytes")]
}

/// What a version's own fields do not say: its pairs, whether what is stored still gives the digests, and the chain of
/// weights back to the base.
fn lineage_rows(chain: &[VersionLineage]) -> Vec<Vec<String>> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let holds = |holds: bool| if holds { "as registered" } else { "ALTERED since it was registered" }.to_owned();
    let Some(own) = chain.first() else { return Vec::new() };
    let mut rows = vec![row("stored evaluation", holds(own.is_evaluation_verified))];
    if let Some(snapshot) = &own.snapshot {
        rows.push(row("stored snapshot", holds(snapshot.is_verified)));
        let pairs = format!(
            "{} to train, {} to judge, of {} persons, labeled {} to {}",
            snapshot.training_pairs,
            snapshot.gate_pairs,
            snapshot.persons,
            snapshot.first_labeled_at,
            snapshot.last_labeled_at
        );
        rows.push(row("pairs", pairs));
        rows.push(row("label policy version", snapshot.label_policy_version.to_string()));
    }
    let weights: Vec<String> = chain.iter().map(|link| link.version.to_string()).collect();
    rows.push(row("weights", weights.join(" trained from ")));
    rows
}

fn show(value: &impl Serialize, list: &ListArgs) -> Result<(), Failure> {
    if list.json {
        return print_json(value);
    }
    print_fields(&serde_json::to_value(value)?)
}

pub(crate) async fn rollout(common: &Common, command: &RolloutCommand) -> Result<ExitCode, Failure> {
    let foundation = open(common).await?;
    let registry = registry(&foundation)?;
    let (tenant, model) = (&foundation.settings.tenant, &foundation.settings.model);
    let id = |text: &str| text.parse::<RolloutId>().map_err(Failure::refuse);
    match command {
        RolloutCommand::List(list) => {
            let rollouts = registry.rollouts(tenant, Some(model)).await.map_err(refused)?;
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
            let id = id(text)?;
            let rollout = registry.rollout(tenant, id).await.map_err(refused)?;
            let evidence = registry.evidence(tenant, id).await.map_err(refused)?;
            show(&json!({ "rollout": rollout, "evidence": evidence }), list)?;
        }
        RolloutCommand::Approve(decision) => decide(&registry, &foundation, decision, RolloutStep::Approve).await?,
        RolloutCommand::Abort(decision) => decide(&registry, &foundation, decision, RolloutStep::Abort).await?,
        RolloutCommand::Rollback(decision) => decide(&registry, &foundation, decision, RolloutStep::RollBack).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn decide(
    registry: &Registry,
    foundation: &Foundation,
    decision: &DecisionArgs,
    step: RolloutStep,
) -> Result<(), Failure> {
    let id = decision.id.parse::<RolloutId>().map_err(Failure::refuse)?;
    // Whoever may read the data directory acts with the platform's own key; the audit log names the person beside it.
    let key = foundation.api_keys.verify(foundation.internal_key.expose_secret(), Scope::Admin).await;
    let key = key.map_err(Failure::refuse)?;
    let rollout = registry.decide(&key, id, step, &decision.by, &decision.because).await.map_err(refused)?;
    show(&rollout, &decision.list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_named_without_leading_zeros() {
        assert_eq!(letter_id(3, "00000000000000000120"), "3:120");
        assert_eq!(letter_id(0, "00000000000000000000"), "0:0");
    }
}
