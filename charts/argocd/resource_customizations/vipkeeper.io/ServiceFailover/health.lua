-- As kstatus has it (github.com/fluxcd/cli-utils/tree/main/pkg/kstatus), and more: a service that failed,
-- or that could not be stopped, is Degraded. Having no other node that could take over is not.
local health = { status = "Progressing", message = "Nobody has looked at the newest spec yet" }
if obj.status == nil or obj.status.conditions == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health
end
local found = {}
for _, condition in ipairs(obj.status.conditions) do
  found[condition.type] = condition
end
local function is(kind, status)
  return found[kind] ~= nil and found[kind].status == status
end
if is("Stalled", "True") then
  health.status, health.message = "Degraded", found.Stalled.message
elseif is("Degraded", "True") and found.Degraded.reason ~= "NoStandby" then
  health.status, health.message = "Degraded", found.Degraded.message
elseif is("Reconciling", "True") then
  health.message = found.Reconciling.message
elseif is("Ready", "False") then
  health.status, health.message = "Degraded", found.Ready.message
elseif is("Ready", "True") then
  health.status, health.message = "Healthy", found.Ready.message
end
return health
