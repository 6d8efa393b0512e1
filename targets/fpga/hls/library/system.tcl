# Connects the modules, their buffers and FIFOs to the processor, and writes build/vta.bit and build/vta.hwh:
# vivado -mode batch -source system.tcl, after hls.tcl

set part @part@
set mhz @clock_mhz@
set modules {fetch load compute store}

create_project -force vta build/vivado -part $part
set_property ip_repo_paths build/ip [current_project]
update_ip_catalog
create_bd_design system

# The processor: one master port for the registers, one slave port for DRAM, the clock and the reset.
set cpu [create_bd_cell -type ip -vlnv xilinx.com:ip:@processor@ cpu]
set_property -dict [list @processor_options@] $cpu
set clock [get_bd_pins cpu/@clock_pin@]
foreach pin {@port_clocks@} {
  connect_bd_net $clock [get_bd_pins cpu/$pin]
}
set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset]
connect_bd_net $clock [get_bd_pins reset/slowest_sync_clk]
connect_bd_net [get_bd_pins cpu/@reset_pin@] [get_bd_pins reset/ext_reset_in]
set resetn [get_bd_pins reset/peripheral_aresetn]

# A cell of this design's catalogue, with its clock and reset connected.
proc add {vlnv name options clock_pin reset_pin} {
  global clock resetn
  set cell [create_bd_cell -type ip -vlnv $vlnv $name]
  if {[llength $options]} { set_property -dict $options $cell }
  connect_bd_net $clock [get_bd_pins $name/$clock_pin]
  connect_bd_net $resetn [get_bd_pins $name/$reset_pin]
}
foreach module $modules {
  add hardy:vta:vta_$module:1.0 $module {} ap_clk ap_rst_n
}

# Registers.
add xilinx.com:ip:smartconnect registers {CONFIG.NUM_SI 1 CONFIG.NUM_MI 4} aclk aresetn
connect_bd_intf_net [get_bd_intf_pins cpu/@master@] [get_bd_intf_pins registers/S00_AXI]
foreach module $modules number {0 1 2 3} {
  connect_bd_intf_net [get_bd_intf_pins registers/M0${number}_AXI] [get_bd_intf_pins $module/s_axi_control]
}

# DRAM: every memory port of every module on one slave port of the processor.
set ports [get_bd_intf_pins -of_objects [get_bd_cells $modules] -filter {NAME =~ m_axi_*}]
add xilinx.com:ip:smartconnect memory [list CONFIG.NUM_SI [llength $ports] CONFIG.NUM_MI 1] aclk aresetn
set number 0
foreach port $ports {
  connect_bd_intf_net $port [get_bd_intf_pins [format memory/S%02d_AXI $number]]
  incr number
}
connect_bd_intf_net [get_bd_intf_pins memory/M00_AXI] [get_bd_intf_pins cpu/@slave@]

# FIFOs: from, to, name, entries.
foreach {from to name depth} {
@fifos@
} {
  add xilinx.com:ip:axis_data_fifo $name [list CONFIG.FIFO_DEPTH $depth] s_axis_aclk s_axis_aresetn
  connect_bd_intf_net [get_bd_intf_pins $from/$name] [get_bd_intf_pins $name/S_AXIS]
  connect_bd_intf_net [get_bd_intf_pins $name/M_AXIS] [get_bd_intf_pins $to/$name]
}

# Buffers that two modules share, one block memory a bank: writer, reader, name, bits, elements.
foreach {writer reader name bits depth} {
@buffers@
} {
  set banks "NAME =~ ${name}*PORTA"
  set writers [lsort -dictionary [get_bd_intf_pins -of_objects [get_bd_cells $writer] -filter $banks]]
  set readers [lsort -dictionary [get_bd_intf_pins -of_objects [get_bd_cells $reader] -filter $banks]]
  set number 0
  foreach write $writers read $readers {
    set cell ${name}_$number
    create_bd_cell -type ip -vlnv xilinx.com:ip:blk_mem_gen $cell
    set_property -dict [list \
      CONFIG.use_bram_block Stand_Alone CONFIG.Memory_Type True_Dual_Port_RAM \
      CONFIG.Enable_32bit_Address true CONFIG.Use_Byte_Write_Enable true CONFIG.Byte_Size 8 \
      CONFIG.Register_PortA_Output_of_Memory_Primitives false \
      CONFIG.Register_PortB_Output_of_Memory_Primitives false CONFIG.Write_Depth_A $depth \
      CONFIG.Write_Width_A $bits CONFIG.Read_Width_A $bits CONFIG.Write_Width_B $bits CONFIG.Read_Width_B $bits \
      ] [get_bd_cells $cell]
    connect_bd_intf_net $write [get_bd_intf_pins $cell/BRAM_PORTA]
    connect_bd_intf_net $read [get_bd_intf_pins $cell/BRAM_PORTB]
    incr number
  }
}

# Addresses: DRAM where the processor has it, a page of registers a module.
assign_bd_address
foreach {module address} {
@pages@
} {
  set segment [get_bd_addr_segs -of_objects [get_bd_intf_pins $module/s_axi_control]]
  assign_bd_address -offset $address -range 4K -force $segment
}

regenerate_bd_layout
validate_bd_design
save_bd_design
set design [get_files system.bd]
add_files -norecurse [make_wrapper -files $design -top]
set_property top system_wrapper [current_fileset]
launch_runs impl_1 -to_step write_bitstream -jobs 4
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} { error "implementation stopped, see build/vivado" }
file copy -force build/vivado/vta.runs/impl_1/system_wrapper.bit build/vta.bit
file copy -force [glob build/vivado/vta.gen/sources_1/bd/system/hw_handoff/system.hwh] build/vta.hwh
