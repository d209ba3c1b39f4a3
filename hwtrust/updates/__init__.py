"""How a device takes a new release: from the repository into a slot, and from slot to slot.

archive   a tree of files as one file, and back
entries   what may be in an archive, and how it is written
trees     trees of files by descriptors: made, copied, synced, removed
slots     two places for a release, and one rename between them
source    a server, its limits, and files from it piece by piece
download  one file, resumed where it was cut, whole and as signed
metadata  the TUF client, and what it remembers; needs python-tuf
client    releases, their manifests and the files of their layers
staging   a release into the inactive slot: copied where it is the same, else fetched
bundle    the vendor's side: a release made of its layers and a manifest

Nothing is imported here: each module costs only those who use it.
"""
