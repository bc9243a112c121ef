# What the units say of systemd older than 254. It has no growing delay, and 100 ms for ever would be a busy loop.
/^# Needs systemd 254/d
/^# without RestartSteps, /d
/^Type=notify-reload$/d
s/^#Type=notify$/Type=notify/
s/^#ExecReload=/ExecReload=/
s/^RestartSec=.*/RestartSec=1s/
/^RestartSteps=/d
/^RestartMaxDelaySec=/d
/^ImportCredential=/d
