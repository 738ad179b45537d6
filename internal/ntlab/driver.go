package ntlab

// LoadDriver loads a PE file as Windows loads a driver: sections at their
// addresses in 4 KiB pages with the protection that they ask for, base
// relocations applied, imports from ntoskrnl.exe bound where the guest's
// kernel exports them and left alone where not, and an entry at the end of
// PsLoadedModuleList. Nothing of it has run.
//
// The file must be for the image's processor. A file that is malformed is an
// error and changes no list.
func (im *Image) LoadDriver(name string, file []byte) (Module, error) {
	return Module{}, errNotYet
}
