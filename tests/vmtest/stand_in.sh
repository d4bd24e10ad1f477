#!/bin/sh
# Takes the place of each program that the provisioning scripts call: writes down how it
# was called, and does what the scripts rely on. $STATE is a directory.
name=${0##*/}
echo "$name $*" >>"$STATE/calls"
case "$name $*" in
"apt-cache search"*)
    echo "libfuse2t64 - Filesystem in Userspace (library)" ;;
"python3 -c "*)
    echo py312 ;;
"python3 -m venv "*)
    for directory; do :; done
    mkdir -p "$directory/bin"
    for program in pip python3 ksymsfs mkksyms ksyms; do
        ln -s "$STATE/stand_in.sh" "$directory/bin/$program"
    done ;;
"kldstat -q -m "*)
    for module; do :; done
    [ -e "$STATE/loaded.$module" ] ;;
kldload*)
    [ ! -e "$STATE/loaded.$1" ] && touch "$STATE/loaded.$1" ;;
"service ksymsfs status")
    [ -e "$STATE/running" ] ;;
"service ksymsfs start" | "systemctl restart ksymsfs")
    [ "$name" = systemctl ] || [ ! -e "$STATE/running" ] && touch "$STATE/running" ;;
"service ksymsfs stop")
    rm "$STATE/running" ;;
"ksyms "*)
    [ -e "$STATE/running" ] ;;
esac
