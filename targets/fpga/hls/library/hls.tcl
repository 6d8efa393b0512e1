# Synthesizes the four modules: vitis_hls -f hls.tcl
# Each becomes an IP for the block design in system.tcl, under build/ip.

set part @part@
set period @period@

file mkdir build/ip
cd build
foreach module {fetch load compute store} {
  open_project -reset vta_$module
  set_top vta_$module
  add_files ../src/$module.cpp -cflags "-std=c++14 -I../src"
  open_solution -reset -flow_target vivado solution
  set_part $part
  create_clock -period $period -name default
  # Addresses of 32 bits keep the register map; a burst ends where a row ends.
  config_interface -m_axi_addr64=false
  csynth_design
  export_design -format ip_catalog -vendor hardy -library vta -version 1.0 -output ip/vta_$module.zip
  close_project
  file mkdir ip/vta_$module
  exec unzip -qo ip/vta_$module.zip -d ip/vta_$module
}
exit
