// Before MLflow's own scripts. VIEWS and LANDING come from src/utils/lab/mlflow_server.py.

// What MLflow remembers in this browser, unless it was chosen here.
const CHOICES = {
  "mlflow.workflowType_v1": "machine_learning", // else the side on language models
  "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": true, // the assistant waits for its button
  "mlflow.home.getting-started.collapsed_v1": true,
  "mlflow.settings.telemetry.enabled_v1": false,
  "mlflow.telemetry.info.alert.dismissed_v1": true,
};
for (const [key, value] of Object.entries(CHOICES)) {
  if (localStorage.getItem(key) === null) localStorage.setItem(key, JSON.stringify(value));
}

// The columns and charts of each experiment, unless they were changed in this browser.
const DEFAULT = ["Source", "Models", "Dataset"].map((name) => `attributes.\`${name}\``);
for (const [id, view] of Object.entries(VIEWS)) {
  const key = `MLflowLocalStorage-1.1-ExperimentPage-["${id}"]-ReactComponentState`;
  const ours = `jikken.columns-${id}`;
  const stored = JSON.parse(localStorage.getItem(key) ?? "{}");
  const columns = JSON.stringify(stored.selectedColumns ?? DEFAULT);
  const { selectedColumns, columnOrder } = view;
  if (columns === JSON.stringify(DEFAULT)) {
    localStorage.setItem(key, JSON.stringify({ ...stored, ...view }));
  } else if (columns === localStorage.getItem(ours)) {
    localStorage.setItem(key, JSON.stringify({ ...stored, selectedColumns, columnOrder }));
  } else {
    continue;
  }
  localStorage.setItem(ours, JSON.stringify(selectedColumns));
}

if (location.hash.length < 3) location.hash = LANDING;
