-- As kstatus has it (github.com/fluxcd/cli-utils/tree/main/pkg/kstatus), and in the words of a Job:
-- Complete or Failed.
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
if is("Failed", "True") then
  health.status, health.message = "Degraded", found.Failed.message
elseif is("Complete", "True") then
  health.status, health.message = "Healthy", found.Complete.message
elseif found.Complete ~= nil then
  health.message = found.Complete.message
end
return health
